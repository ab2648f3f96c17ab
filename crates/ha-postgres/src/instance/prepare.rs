//! Writing the configuration: before a start, and under a running standby that changes its upstream.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::cluster_conf;
use super::directory::{
    Layout, empty_dir, make_own_directories, remove_file, remove_stale_sockets, write_file,
};
use super::settings::{self, CONF_FILE, CONNINFO, HBA_FILE, Settings};
use super::{Changing, Instance, InstanceConfig};
use crate::attempt::Attempt;
use crate::control_file::ControlData;
use crate::driver::{ActionError, Effect, GuardSeen, Upstream};
use crate::sql;
use crate::tool::SHELL;
use crate::wire::WireError;

/// Prints `name=value` of each setting as the server would start with it.
const READ_SETTINGS: &str = "\
d=$1 c=$2; shift 2; \
for n; do v=$(postgres -C \"$n\" -D \"$d\" -c \"$c\") || exit; echo \"$n=$v\"; done";

/// How often a running standby is asked whether it has read its new configuration.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long a signal may take until it is sent again.
const SIGNAL_EVERY: Duration = Duration::from_secs(1);

impl Instance {
    /// Makes a stopped data directory ready to start as a standby.
    pub(super) async fn prepare_as_standby(
        &self,
        upstream: Option<&Upstream>,
        attempt: &Attempt,
    ) -> Result<(), ActionError> {
        let changing = self.change(attempt).await?;
        self.expect_startable(attempt)?;
        self.configure(upstream, true, &changing, attempt).await
    }

    /// Makes it ready to start in place as a primary. Ordinary clients may stay out (rule 99).
    pub(super) async fn prepare_in_place(
        &self,
        admit: bool,
        attempt: &Attempt,
    ) -> Result<(), ActionError> {
        let changing = self.change(attempt).await?;
        self.expect_startable(attempt)?;
        self.configure(None, false, &changing, attempt).await?;
        let closed = self.file_work(&changing, attempt, move |config, layout| {
            let rules = cluster_conf::hba_text(config, layout, admit);
            write_file(&layout.in_data(HBA_FILE), rules, config.run_as)
        });
        closed.await.map(drop)
    }

    fn expect_startable(&self, attempt: &Attempt) -> Result<(), ActionError> {
        if let Some(kind) = self.layout.mark().map_err(|error| attempt.cannot(error))? {
            return Err(attempt.cannot(format!("the data directory is half made: {kind:?}")));
        }
        self.expect_free_port(attempt)
    }

    /// The server would only say so in its log, and end.
    fn expect_free_port(&self, attempt: &Attempt) -> Result<(), ActionError> {
        for host in self.config.listen_addresses.iter().filter(|host| *host != "*") {
            let address = (host.as_str(), self.config.port);
            if let Err(error) = TcpListener::bind(address)
                && error.kind() == std::io::ErrorKind::AddrInUse
            {
                let port = self.config.port;
                return Err(attempt.failed(format!("{host}:{port}: {error}"), Effect::None));
            }
        }
        Ok(())
    }

    /// The same for a change that is not yet finished.
    pub(super) async fn configure(
        &self,
        upstream: Option<&Upstream>,
        standby: bool,
        changing: &Changing,
        attempt: &Attempt,
    ) -> Result<(), ActionError> {
        if !standby && self.layout.in_data("backup_label").exists() {
            return Err(attempt.cannot("it is a clone that was never a standby: no primary"));
        }
        let (major, control) = (self.data_major(attempt)?, self.read_control(attempt).await?);
        self.write_cluster_conf(standby, changing, attempt).await?;
        self.write_settings(major, upstream, &BTreeMap::new(), &control, changing, attempt).await?;
        let raised = if standby { self.too_low(&control, attempt).await? } else { BTreeMap::new() };
        if !raised.is_empty() {
            info!(?raised, "settings raised to what the data asks of a standby");
            self.write_settings(major, upstream, &raised, &control, changing, attempt).await?;
        }
        let done = self.file_work(changing, attempt, move |config, layout| {
            let signal = layout.in_data("standby.signal");
            remove_file(&layout.in_data("recovery.signal"))?;
            empty_dir(&layout.spool())?;
            remove_stale_sockets(layout)?;
            if standby {
                write_file(&signal, "", config.run_as).map(drop)
            } else {
                remove_file(&signal)
            }
        });
        done.await?;
        self.runtime.write_launch().map_err(|why| attempt.failed(why, Effect::Unknown))
    }

    async fn write_settings(
        &self,
        major: u32,
        upstream: Option<&Upstream>,
        raised: &BTreeMap<&'static str, u64>,
        control: &ControlData,
        changing: &Changing,
        attempt: &Attempt,
    ) -> Result<(), ActionError> {
        let (upstream, raised) = (upstream.cloned(), raised.clone());
        let lowest = control.lowest.clone();
        let done = self.file_work(changing, attempt, move |config, layout| {
            make_own_directories(config, layout)?;
            let settings = Settings { major, upstream: upstream.as_ref(), raised };
            write_generated(config, layout, &settings)?;
            edit(config, layout, "postgresql.conf", settings::with_include)?;
            let cluster = cluster_conf::names(layout);
            let strip = |text: &str| settings::stripped(text, &lowest, &cluster);
            edit(config, layout, "postgresql.auto.conf", strip).map(drop)
        });
        done.await
    }

    /// Returns the settings whose value is too low for a standby of this data (rule 65).
    async fn too_low(
        &self,
        control: &ControlData,
        attempt: &Attempt,
    ) -> Result<BTreeMap<&'static str, u64>, ActionError> {
        let data_dir = self.layout.data_dir.display().to_string();
        let file = settings::config_file_arg(&self.layout.data_dir);
        let tool = self.tool(SHELL).args(["-c", READ_SETTINGS, "sh", &data_dir, &file]);
        let output = tool.args(control.lowest.keys().copied()).run(attempt.deadline()).await;
        let output = output.map_err(|error| error.during(attempt, Effect::None))?;
        let value = |name: &str| {
            let of = |line: &&String| line.split_once('=').is_some_and(|(of, _)| of == name);
            let line = output.lines.iter().rev().find(of)?;
            line.split_once('=')?.1.trim().parse::<u64>().ok()
        };
        let too_low = |(name, lowest): &(&&str, &u64)| value(name).is_none_or(|is| is < **lowest);
        let raised = control.lowest.iter().filter(too_low);
        Ok(raised.map(|(name, lowest)| (*name, *lowest)).collect())
    }

    /// Points a running standby at another upstream: new file, SIGHUP, and the proof that it was read.
    pub(super) async fn point_at(
        &self,
        upstream: Option<&Upstream>,
        attempt: &Attempt,
    ) -> Result<(), ActionError> {
        let wanted = upstream.map_or_else(String::new, |upstream| {
            settings::standby_conninfo(&self.config, &self.layout, upstream)
        });
        self.write_upstream(upstream, attempt).await?;
        let mut signalled: Option<Instant> = None;
        loop {
            match self.live_conninfo(attempt).await {
                Ok(live) if live == wanted => return Ok(()),
                Ok(_) => {}
                // Starting: it reads the file when it gets there, or has been told by the signal.
                Err(WireError::Server { code, .. }) if code == "57P03" && signalled.is_some() => {
                    return Ok(());
                }
                Err(WireError::Server { code, .. }) if code == "57P03" => {}
                Err(error) => return Err(sql::action_error(attempt, &error, Effect::Unknown)),
            }
            if signalled.is_none_or(|at| at.elapsed() >= SIGNAL_EVERY) {
                if signalled.is_some() {
                    // The file says it, and it was read: somebody's ALTER SYSTEM is in the way.
                    self.reset_conninfo(attempt).await?;
                }
                self.reload(attempt).await?;
                signalled = Some(Instant::now());
            }
            if attempt.left().is_zero() {
                return Err(attempt.timed_out());
            }
            sleep(LOOK_EVERY.min(attempt.left())).await;
        }
    }

    /// Replaces the upstream in our settings and leaves everything else as it is, the raised
    /// settings too: they are those of the running server. Without one the password goes, too: no
    /// WAL receiver can connect any more.
    pub(super) async fn write_upstream(
        &self,
        upstream: Option<&Upstream>,
        attempt: &Attempt,
    ) -> Result<(), ActionError> {
        let upstream = upstream.cloned();
        let changing = self.change_running(attempt).await?;
        let done = self.file_work(&changing, attempt, move |config, layout| {
            let conninfo = if let Some(upstream) = &upstream {
                write_file(&layout.pass_file(), settings::pass_file(config), config.run_as)?;
                settings::standby_conninfo(config, layout, upstream)
            } else {
                remove_file(&layout.pass_file())?;
                String::new()
            };
            let set = |text: &str| settings::with_setting(text, CONNINFO, &conninfo);
            edit(config, layout, CONF_FILE, set).map(drop)
        });
        done.await
    }

    /// Replaces a file of the running server's configuration if `change` wants it changed. Returns
    /// whether it did.
    pub(super) async fn rewrite(
        &self,
        attempt: &Attempt,
        name: &'static str,
        change: impl Fn(&InstanceConfig, &Layout, &str) -> Option<String> + Send + 'static,
    ) -> Result<bool, ActionError> {
        let changing = self.change_running(attempt).await?;
        let done = self.file_work(&changing, attempt, move |config, layout| {
            edit(config, layout, name, |text| change(config, layout, text))
        });
        done.await
    }

    /// Waits for the right to change files of the data directory while the server may run.
    pub(super) async fn change_running(&self, attempt: &Attempt) -> Result<Changing, ActionError> {
        let lock = std::sync::Arc::clone(&self.changing).lock_owned();
        let lock = tokio::time::timeout_at(attempt.deadline(), lock);
        Ok(std::sync::Arc::new(lock.await.map_err(|_| attempt.timed_out())?))
    }

    async fn live_conninfo(&self, attempt: &Attempt) -> Result<String, WireError> {
        let deadline = attempt.deadline();
        let mut connection = self.connect(&[], deadline).await?;
        let ask = "SELECT current_setting('primary_conninfo')";
        let rows = connection.query(ask, "reading the settings", deadline).await?;
        rows.first().ok_or_else(|| WireError::Protocol("no row".to_owned()))?.value(0)
    }

    async fn reset_conninfo(&self, attempt: &Attempt) -> Result<(), ActionError> {
        let reset = "ALTER SYSTEM RESET primary_conninfo";
        self.execute(reset, &[], attempt, Effect::None).await.map(drop)
    }

    /// Makes the server read its configuration again.
    pub(super) async fn reload(&self, attempt: &Attempt) -> Result<(), ActionError> {
        // A server that is starting accepts no session, but takes the signal.
        if let GuardSeen::Alive(status) = self.runtime.guard_seen()
            && let Some(pid) = status.postmaster
            && self.runtime.signal_server(pid, &[Signal::HUP]).await
        {
            return Ok(());
        }
        let ask = "SELECT pg_reload_conf()";
        self.execute(ask, &[], attempt, Effect::Unknown).await.map(drop)
    }
}

/// Writes the files that are ours alone.
fn write_generated(
    config: &InstanceConfig,
    layout: &Layout,
    settings: &Settings<'_>,
) -> Result<(), String> {
    let owner = config.run_as;
    write_file(&layout.pass_file(), settings::pass_file(config), owner)?;
    let rules = cluster_conf::hba_text(config, layout, true);
    write_file(&layout.in_data(HBA_FILE), rules, owner)?;
    write_file(&layout.in_data(CONF_FILE), settings::conf(config, layout, settings), owner)?;
    Ok(())
}

/// Replaces a file of the data directory if `change` wants it changed; a missing one counts as empty.
/// Returns whether it did.
fn edit(
    config: &InstanceConfig,
    layout: &Layout,
    name: &str,
    change: impl Fn(&str) -> Option<String>,
) -> Result<bool, String> {
    let path = layout.in_data(name);
    let old = match fs::read(&path) {
        Ok(old) => old,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
    };
    let new = if let Ok(text) = std::str::from_utf8(&old) {
        change(text).map(String::into_bytes)
    } else {
        // A user's comments in an older encoding stay, byte for byte: what we add is ASCII.
        let text: String = old.iter().map(|byte| char::from(*byte)).collect();
        let back = |c| u8::try_from(u32::from(c)).unwrap_or(b'?');
        change(&text).map(|new| new.chars().map(back).collect())
    };
    new.map_or(Ok(false), |new| write_file(&path, new, config.run_as))
}
