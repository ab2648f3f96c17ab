//! What the command says: texts only.

use std::fmt::Write as _;

use ha_postgres::adopt::{Change, Journal, Origin, Phase, Plan, Undo};

use crate::config::{Config, DriverSettings};

/// Returns the plan for people.
pub(super) fn plan(config: &Config, plan: &Plan) -> String {
    let mut text =
        format!("{}\nbecomes node {} of cluster {}\n", plan.summary, config.node, config.cluster);
    text.push_str("\nwhat changes, and why:\n");
    for Change { what, from, to, why } in &plan.changes {
        push(&mut text, format_args!("  {what}: {from} -> {to}\n    {why}\n"));
    }
    let kept = plan.kept_settings.join(", ");
    push(
        &mut text,
        format_args!("\nwhat stays: all data, roles and passwords, and these settings: {kept}\n"),
    );
    text.push_str("\nwhat is left to you:\n");
    for line in &plan.yours {
        push(&mut text, format_args!("  {line}\n"));
    }
    push(
        &mut text,
        format_args!("\ndowntime: {}\nthe way back: {}\n", plan.downtime, plan.way_back),
    );
    if plan.faults.is_empty() {
        text.push_str("\nnothing stands against it; nothing is changed without --yes\n");
    }
    text
}

/// Returns what to say once it is done.
pub(super) fn adopted(config: &Config, journal: &Journal) -> String {
    let mut text =
        format!("adopted: the database of node {} is in {}\n", config.node, journal.to.display());
    if let Some(old) = &journal.container {
        push(
            &mut text,
            format_args!("container {} is stopped and stays as the way back\n", old.name),
        );
    }
    let docker = config.postgres.as_ref().map(|settings| &settings.driver);
    let next = match docker {
        Some(DriverSettings::Docker { .. }) => "docker-compose up -d",
        _ => "systemctl start haclt-agent",
    };
    push(&mut text, format_args!("next, once every node is prepared: {next}\n"));
    text
}

/// Returns what to say if it was done before.
pub(super) fn adopted_before(config: &Config, journal: &Journal) -> String {
    format!("nothing to do, it is done already\n{}", adopted(config, journal))
}

/// Returns what to say of an adoption that was cut off.
pub(super) fn half_done(journal: &Journal) -> String {
    let what = match journal.phase {
        Phase::Begun | Phase::Stopping => "the old server is to be stopped",
        Phase::Moving => "files are being moved",
        Phase::Adopted | Phase::Undoing => "it is being taken back",
    };
    format!("an adoption was cut off: {what}\n--yes goes on with it, --undo --yes goes back\n")
}

/// Returns what an undo would do.
pub(super) fn undo(undo: &Undo) -> String {
    let Journal { from, to, origin, container, .. } = &undo.journal;
    let what = match origin {
        Origin::Primary => "a primary",
        Origin::Standby => "a standby",
    };
    let mut text = format!("going back: {what} again\n");
    if from != to {
        push(&mut text, format_args!("  directory: {} -> {}\n", to.display(), from.display()));
    }
    text.push_str("  settings and rules of haclt are removed, postgresql.conf is as it was\n");
    if *origin == Origin::Standby {
        text.push_str(
            "  postgresql.auto.conf gets values that a standby must have at least, such as \
             max_wal_senders\n",
        );
    }
    if let Some(old) = container {
        let policy = &old.restart.name;
        push(
            &mut text,
            format_args!("  container {} has its restart policy {policy} again\n", old.name),
        );
    }
    text
}

/// Returns what to say once it is undone.
pub(super) fn undone(before: &Journal) -> String {
    let next = match (&before.container, &before.unit) {
        (Some(old), _) => format!("docker start {}", old.name),
        (None, Some(unit)) => format!("systemctl start {unit}"),
        (None, None) => "start the old server as before".to_owned(),
    };
    let mut text =
        format!("undone: the database is in {} again\nnext: {next}\n", before.from.display());
    if matches!(before.phase, Phase::Moving | Phase::Adopted | Phase::Undoing) {
        let roles =
            [before.roles.as_slice(), &["haclt_replication".to_owned()]].concat().join(", ");
        push(&mut text, format_args!("roles of haclt that nobody needs any more: {roles}\n"));
    }
    text
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to a String cannot fail");
}
