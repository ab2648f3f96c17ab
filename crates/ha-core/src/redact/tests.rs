use proptest::prelude::*;

use super::*;

fn cleaned(text: &str) -> String {
    Redactor::default().text(text)
}

#[test]
fn a_secret_is_removed_and_what_names_it_stays() {
    #[rustfmt::skip]
    let table = [
        ("password=hunter2 host=n1",                     "password=[removed] host=n1"),
        ("host=n1 password='hun ter2' user=x",           "host=n1 password=[removed] user=x"),
        (r"password='hun\'t er2' user=x",                "password=[removed] user=x"),
        ("passfile=/x/pgpass sslmode=require",           "passfile=[removed] sslmode=require"),
        ("primary_conninfo = 'host=a password=b c=d'",   "primary_conninfo = 'host=a password=[removed] c=d'"),
        ("PGPASSWORD=hunter2 psql",                      "PGPASSWORD=[removed] psql"),
        ("env PGPASSWORD=\"hun ter2\" psql",             "env PGPASSWORD=[removed] psql"),
        ("psql --password hunter2 -h x",                 "psql --password [removed] -h x"),
        ("ALTER ROLE x PASSWORD 'hunter2';",             "ALTER ROLE x PASSWORD [removed];"),
        ("alter role x encrypted password 'it''s' valid","alter role x encrypted password [removed] valid"),
        ("ALTER ROLE x PASSWORD E'a\\'b' LOGIN",         "ALTER ROLE x PASSWORD [removed] LOGIN"),
        ("ALTER ROLE x PASSWORD $q$hun'ter$q$ LOGIN",    "ALTER ROLE x PASSWORD [removed] LOGIN"),
        ("ALTER ROLE x PASSWORD\n\t'hun'\n\t'ter2' LOGIN", "ALTER ROLE x PASSWORD\n\t[removed] LOGIN"),
        ("ALTER ROLE x PASSWORD /* 'x' */ 'hunter2'",    "ALTER ROLE x PASSWORD /* 'x' */ [removed]"),
        ("ALTER ROLE x PASSWORD -- now\n'hunter2'",      "ALTER ROLE x PASSWORD -- now\n[removed]"),
        ("SET app.password TO 'hunter2'",                "SET app.password TO [removed]"),
        ("set_config('app.password', 'hunter2', false)", "set_config('app.password', [removed], false)"),
        ("{\"password\": \"hun\\\"ter2\", \"a\": 1}",    "{\"password\": [removed], \"a\": 1}"),
        ("{\"secret\": {\"a\": \"b c\"}, \"a\": 1}",     "{\"secret\": [removed], \"a\": 1}"),
        (r#"{"m":"set {\"password\":\"a b\"} x"}"#,      r#"{"m":"set {\"password\":[removed]} x"}"#),
        ("Some { token: Some(\"a b\"), x: 1 }",          "Some { token: [removed], x: 1 }"),
        ("aws_secret_access_key = abc/def+ region=x",    "aws_secret_access_key = [removed] region=x"),
        ("using AKIAIOSFODNN7EXAMPLE now",               "using [removed] now"),
        ("postgres://app:hunter2@db:5432/x",             "postgres://app:[removed]@db:5432/x"),
        ("postgres://app:hu/nt@er2@db:5432/x",           "postgres://app:[removed]@db:5432/x"),
        ("https://ghp_abc@example.org/x",                "https://[removed]@example.org/x"),
        ("postgres://db/x?user=a&password=b%20c",        "postgres://db/x?user=a&password=[removed]"),
        ("Authorization: Basic YTpi\nHost: x",           "Authorization: [removed]\nHost: x"),
        ("header authorization=\"Bearer abc\" x",        "header authorization=[removed] x"),
        ("sent Bearer abc.def-ghi and",                  "sent Bearer [removed] and"),
        ("'SCRAM-SHA-256$4096:abc+/=$def=:ghi=' x",      "'SCRAM-SHA-256[removed]' x"),
        ("md50123456789abcdef0123456789abcdef x",        "[removed] x"),
        ("a\n-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----\nb", "a\n[removed]\nb"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE",        "[removed]"),
        ("password = 'never closed",                     "password = [removed]"),
        ("'passfile=''/x/a b'' host=''n1'''",            "'passfile=[removed] host=''n1'''"),
        ("password='' host=n1",                          "password=[removed] host=n1"),
        ("token='\nPGPASSWORD='hun ter2' psql",          "token=[removed] psql"),
        ("--password='hun'ter2 -l",                      "--password=[removed] -l"),
        ("password: Some(\"a)b\"), c: 1",                 "password: [removed], c: 1"),
    ];
    for (text, expected) in table {
        assert_eq!(cleaned(text), expected, "{text}");
        assert_eq!(cleaned(expected).matches(REMOVED).count(), expected.matches(REMOVED).count());
    }
}

#[test]
fn what_is_no_secret_stays_as_it_is() {
    #[rustfmt::skip]
    let table = [
        "FATAL:  password authentication failed for user \"app\"",
        "password_encryption = scram-sha-256",
        "superuser_password_file = \"/etc/haclt/superuser\"",
        "replication_password_file: Some(\"/etc/haclt/x\")",
        "replication_password_file: None",
        "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----",
        "http://10.77.0.1:7400 mail a@b",
        "scram-sha-256 with md5 and a passenger",
        "[\"/run/secrets/x_password\", 7, n1]",
        "epoch 7 lease n2, 7.4 s left",
        "überall ein Ä",
        "",
    ];
    for text in table {
        assert_eq!(cleaned(text), text);
    }
}

#[test]
fn a_known_secret_is_removed_however_it_is_written() {
    let secret = r#"it's "a\b" ü@/"#;
    let redactor = Redactor::knowing([secret, "abc", ""]);
    #[rustfmt::skip]
    let table = [
        secret.to_owned(),
        secret.replace('\'', "''"),
        format!("{secret:?}").trim_matches('"').to_owned(),
        serde_json::to_string(secret).expect("JSON").trim_matches('"').to_owned(),
        r#"it\'s "a\\b" ü@/"#.to_owned(),
        "it%27s%20%22a%5Cb%22%20%C3%BC%40%2F".to_owned(),
        "it%27s%20%22a%5cb%22%20%c3%bc%40%2f".to_owned(),
    ];
    for text in table {
        assert_eq!(redactor.text(&format!("<{text}> abc")), "<[removed]> abc", "{text}");
    }
    assert!(!format!("{redactor:?}").contains('ü'));
}

/// What stands before a secret, how it is written, what stands after it.
type Place = (&'static str, fn(&str) -> String, &'static str);

/// What surrounds a secret, how it is written there, and how the whole may be wrapped once more.
const PLACES: [Place; 17] = [
    ("primary_conninfo = 'host=''n1'' password=", within_quotes, " user=''x'''"),
    ("ALTER ROLE x PASSWORD ", sql, ";"),
    ("2026-11-28 03:00:00 UTC [7] LOG:  statement: create role x password\n\t", sql, " login"),
    ("CREATE USER MAPPING FOR x SERVER y OPTIONS (user 'a', password ", sql, ")"),
    ("select set_config('x.password', ", sql, ", true)"),
    ("primary_conninfo = 'host=n1 password=", bare_word, " user=x'"),
    ("could not connect: host=n1 password=", quoted, " user=x"),
    ("postgres://app:", url, "@n1:5432/x?sslmode=require"),
    ("postgres://n1/x?password=", url, "&user=a"),
    ("PGPASSWORD=", quoted, " pg_basebackup"),
    ("psql --password=", bare_word, " -l"),
    ("{\"a\": 1, \"db_password\": ", json, ", \"b\": 2}"),
    ("Settings { password: ", debug, ", port: 1 }"),
    ("Settings { password: Some(", debug, "), port: 1 }"),
    ("api_token := ", sql, ""),
    ("password\t=>\t", dollar, " x"),
    ("-----BEGIN EC PRIVATE KEY-----\n", bare_word, "\n-----END EC PRIVATE KEY-----"),
];

fn sql(secret: &str) -> String {
    format!("'{}'", secret.replace('\'', "''"))
}

fn quoted(secret: &str) -> String {
    format!("'{}'", secret.replace('\\', r"\\").replace('\'', r"\'"))
}

fn within_quotes(secret: &str) -> String {
    quoted(secret).replace('\'', "''")
}

fn bare_word(secret: &str) -> String {
    // What begins with a quote or a bracket is no bare word.
    format!("x{}", secret.replace(char::is_whitespace, "_"))
}

fn url(secret: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "!$*+,;=:".contains(c);
    secret.chars().map(|c| if plain(c) { c.to_string() } else { "%2F".to_owned() }).collect()
}

fn json(secret: &str) -> String {
    serde_json::to_string(secret).expect("JSON")
}

fn debug(secret: &str) -> String {
    format!("{secret:?}")
}

fn dollar(secret: &str) -> String {
    format!("$tag${secret}$tag$")
}

fn as_it_is(text: &str) -> String {
    text.to_owned()
}

/// In how many ways a whole line may be escaped before it stands in a log.
const WRAPS: [fn(&str) -> String; 3] = [as_it_is, json, debug];

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_planted_secret_survives(
        place in 0..PLACES.len(),
        wrap in 0..WRAPS.len(),
        head in "[ -~äß]{0,8}",
        mark in "[A-Za-z0-9]{14}",
        tail in "[ -~äß]{0,8}",
        before in "([a-z=:' \"]{0,20}\n){0,2}",
        after in "(\n[a-z=:' \"]{0,20}){0,2}",
    ) {
        let secret = format!("{head}{mark}{tail}");
        // A dollar in a bare value would begin another kind of quote.
        prop_assume!(!secret.contains("$tag$") && !secret.contains("-----"));
        let (begin, write, end) = PLACES[place];
        let line = WRAPS[wrap](&format!("{begin}{}{end}", write(&secret)));
        let text = format!("{before}{line}{after}");
        let known = Redactor::knowing([secret.as_str()]);
        prop_assert!(!known.text(&text).contains(&mark), "known: {text}\n{}", known.text(&text));
        let guessed = cleaned(&text);
        prop_assert!(!guessed.contains(&mark), "guessed: {text}\n{guessed}");
    }

    #[test]
    fn any_text_is_taken(text in "\\PC{0,200}", more in "[ -~\\n'\"$\\\\]{0,200}") {
        let redactor = Redactor::knowing(["some secret"]);
        let once = redactor.text(&format!("{text} password={more} some secret {more}"));
        prop_assert!(!once.contains("some secret"));
    }
}
