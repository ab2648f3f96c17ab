//! A new database cluster, with our internal user in it.

use std::fmt::Write as _;
use std::path::PathBuf;

use postgres_protocol::password::scram_sha_256;
use tracing::warn;

use super::directory::{empty_dir, make_dir, remove_file, write_file};
use super::{Changing, Instance, settings};
use crate::attempt::Attempt;
use crate::driver::{ActionError, ControlFile, DataDir, Effect, HalfMade};
use crate::sql::{self, identifier, literal};
use crate::tool::ToolError;

/// What `pg_rewind` reads the source with, and `upstream_history` too.
///
/// # Sources
/// PostgreSQL manual, "`pg_rewind`", Notes.
const GRANTED: [&str; 4] = [
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
];

impl Instance {
    /// Makes a cluster where nothing is, or where an earlier `initdb` was not finished.
    pub(super) async fn make_cluster(&self, attempt: &Attempt) -> Result<ControlFile, ActionError> {
        let changing = self.change(attempt).await?;
        match self.look(attempt.deadline()).await {
            DataDir::Missing | DataDir::Empty | DataDir::HalfMade(HalfMade::Initdb) => {}
            other @ (DataDir::Unreadable(_) | DataDir::HalfMade(_) | DataDir::Present(_)) => {
                let what = match other {
                    DataDir::Unreadable(why) => why,
                    DataDir::HalfMade(kind) => format!("half made by {kind:?}"),
                    _ => "there is one".to_owned(),
                };
                return Err(attempt.cannot(format!("the data directory is not empty: {what}")));
            }
        }
        let password = format!("{}\n", self.config.superuser.password.preferred().expose());
        let password_file = PasswordFile(self.layout.password_file());
        let begun = self.file_work(&changing, attempt, move |config, layout| {
            layout.set_mark(HalfMade::Initdb)?;
            // Nothing but an initdb of ours was here; a mount point stays, its content goes.
            empty_dir(&layout.data_dir)?;
            make_dir(&layout.data_dir, config.run_as, 0o700)?;
            write_file(&layout.password_file(), &password, config.run_as).map(drop)
        });
        begun.await?;
        self.run_initdb(attempt).await?;
        drop(password_file);
        // First as a primary would run: the control file then asks no more of standbys than the
        // configuration does.
        self.configure(None, false, &changing, attempt).await?;
        self.make_internal_user(&changing, attempt).await?;
        self.configure(None, true, &changing, attempt).await?;
        let done = self.file_work(&changing, attempt, |_, layout| layout.clear_mark()).await;
        done?;
        Ok(self.read_control(attempt).await?.describe(self.data_major(attempt)?, true))
    }

    async fn run_initdb(&self, attempt: &Attempt) -> Result<(), ActionError> {
        let run = async |locale: &str| {
            let pw = self.layout.password_file();
            let args = [
                format!("--pgdata={}", self.layout.data_dir.display()),
                format!("--username={}", self.config.superuser.name),
                format!("--pwfile={}", pw.display()),
                "--auth-local=scram-sha-256".to_owned(),
                "--auth-host=scram-sha-256".to_owned(),
                "--data-checksums".to_owned(),
                "--encoding=UTF8".to_owned(),
                format!("--locale={locale}"),
                "--lc-messages=C".to_owned(),
                "--no-instructions".to_owned(),
            ];
            self.tool("initdb").args(args).run(attempt.deadline()).await
        };
        let made = match run("C.UTF-8").await {
            // An old system without it: byte order then, still with UTF-8 as the encoding.
            Err(ToolError::Failed { why, .. }) if why.contains("invalid locale") => run("C").await,
            other => other,
        };
        made.map(drop).map_err(|error| error.during(attempt, Effect::Unknown))
    }

    /// Makes the replication user in single-user mode: before any server listens.
    ///
    /// Only the password's verifier is handed over, and errors are logged without the statement.
    async fn make_internal_user(
        &self,
        changing: &Changing,
        attempt: &Attempt,
    ) -> Result<(), ActionError> {
        let verifier =
            scram_sha_256(self.config.replication.password.preferred().expose().as_bytes());
        let user = identifier(&self.config.replication.name);
        let mut sql = format!(
            "CREATE ROLE {user} LOGIN REPLICATION PASSWORD {};\nGRANT pg_monitor TO {user};\n",
            literal(&verifier)
        );
        for function in GRANTED {
            writeln!(sql, "GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {user};")
                .expect("writing to a String cannot fail");
        }
        self.single_user(sql, &[], changing, attempt).await
    }

    /// Logs in as the replication user; if that is refused, makes it, or gives it the password.
    pub(super) async fn mend_internal_user(&self, attempt: &Attempt) -> Result<bool, ActionError> {
        let config = &self.config;
        match sql::open(&self.host(), config.port, &config.replication, &[], attempt.deadline())
            .await
        {
            Ok(_) => return Ok(false),
            // 28P01: wrong password, or no such user. 28000: it may not log in.
            Err(error) if matches!(error.code(), Some("28P01" | "28000")) => {}
            Err(error) => return Err(sql::action_error(attempt, &error, Effect::None)),
        }
        let verifier = scram_sha_256(config.replication.password.preferred().expose().as_bytes());
        let name = literal(&config.replication.name);
        let user = identifier(&config.replication.name);
        let mut statement = format!(
            "DO $haclt$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {name}) \
             THEN CREATE ROLE {user}; END IF; END $haclt$; \
             ALTER ROLE {user} LOGIN REPLICATION PASSWORD {}; GRANT pg_monitor TO {user};",
            literal(&verifier)
        );
        for function in GRANTED {
            write!(statement, " GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {user};")
                .expect("writing to a String cannot fail");
        }
        // No statement of this session reaches a log, the verifier with it (rule 69). It does not wait
        // for those who acknowledge: they may need this very user to connect.
        let quiet = [
            ("log_statement", "none"),
            ("log_min_error_statement", "panic"),
            ("synchronous_commit", "local"),
        ];
        self.execute(&statement, &quiet, attempt, Effect::Unknown).await?;
        Ok(true)
    }

    /// Runs the server in single-user mode on the stopped data directory: crash recovery if it needs
    /// that, then the statements, one a line, the first error ends it.
    pub(super) async fn single_user(
        &self,
        sql: String,
        more: &[&str],
        _changing: &Changing,
        attempt: &Attempt,
    ) -> Result<(), ActionError> {
        let data_dir = self.layout.data_dir.display().to_string();
        let quiet = [
            settings::config_file_arg(&self.layout.data_dir),
            "exit_on_error=on".to_owned(),
            "logging_collector=off".to_owned(),
            "log_min_error_statement=panic".to_owned(),
            "log_statement=none".to_owned(),
            "shared_preload_libraries=".to_owned(),
            "synchronous_standby_names=".to_owned(),
        ];
        let more = more.iter().map(|setting| (*setting).to_owned());
        let settings = quiet.into_iter().chain(more).flat_map(|it| ["-c".to_owned(), it]);
        let mut tool = self.tool("postgres").args(["--single", "-D", &data_dir]).args(settings);
        tool = tool.args(["postgres"]).stdin(sql);
        if let Some(foreign) = self.runtime.foreign_postmaster() {
            tool = tool.env("PG_GRANDPARENT_PID", foreign.to_string());
        }
        let done = tool.run(attempt.deadline()).await;
        done.map(drop).map_err(|error| error.during(attempt, Effect::Unknown))
    }
}

/// The file that `initdb` reads the superuser's password from; gone when this is dropped.
struct PasswordFile(PathBuf);

impl Drop for PasswordFile {
    fn drop(&mut self) {
        if let Err(error) = remove_file(&self.0) {
            warn!(error, "could not remove a password file");
        }
    }
}
