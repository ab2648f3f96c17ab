//! Every command of the documentation is one that there is.

use clap::Parser as _;
use haclt::Cli;

#[path = "../../../../tests/src/docs.rs"]
mod pages;

#[test]
fn every_command_that_the_documentation_names_can_be_typed() {
    let mut parsed = 0;
    for page in pages::PAGES {
        for command in pages::commands(page) {
            let outcome = Cli::try_parse_from(&command.words);
            let why = outcome.err().map(|error| error.to_string()).unwrap_or_default();
            assert_eq!(why, "", "{}: {}", command.place, command.words.join(" "));
            parsed += 1;
        }
    }
    assert!(parsed > 60, "only {parsed} commands were found");
}
