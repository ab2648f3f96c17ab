//! The agent's side of the permit: every change of what the guard may do goes through here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ha_core::permit::{Order, Permit, StopMode};
use ha_core::{BootId, BootNanos, Epoch};
use ha_postgres::driver::{ActionError, PostgresDriver};
use tracing::warn;

/// The deadline of a permit that has none: only while the cluster is paused.
pub const UNBOUND: BootNanos = BootNanos(u64::MAX);

/// The permit as last written, and the only writer of it.
#[derive(Debug)]
pub struct PermitBook<D> {
    driver: Arc<D>,
    permit: Mutex<Permit>,
    /// The last deadline before it was taken away; none since the agent's start is the beginning of the boot.
    limited_until: AtomicU64,
}

impl<D: PostgresDriver> PermitBook<D> {
    /// Takes over what an earlier start of the agent left in this boot.
    ///
    /// A missing permit, or one of another boot, permits nothing. So does a damaged one: the guard holds
    /// a running database to the last permit it could read, and this agent renews nothing that it did
    /// not find.
    ///
    /// `member` says whether this node's Raft store belongs to a group. If it does not, whatever is found
    /// is of another life: this store never was granted anything.
    pub fn load(driver: Arc<D>, boot: BootId, member: bool) -> Self {
        let nothing = Permit {
            boot,
            run: 0,
            burnt: Epoch::NONE,
            order: Order::Down { stop: StopMode::Fast },
        };
        let found = driver.read_permit().unwrap_or_else(|error| {
            warn!(%error, "permit is unusable, starting without one");
            None
        });
        let found = found.filter(|_| member);
        Self {
            driver,
            permit: Mutex::new(found.unwrap_or(nothing)),
            limited_until: AtomicU64::new(0),
        }
    }

    /// Returns the permit as last written.
    pub fn current(&self) -> Permit {
        *self.lock()
    }

    /// Writes the permit again if the file is not what was last written: damaged, or gone.
    ///
    /// `guard_run` is the run that the guard is at; a permit that knows less of runs than the guard was
    /// lost while no agent ran: it then orders that run down. Returns whether it was written.
    ///
    /// # Errors
    /// If it could not be written.
    pub fn mend(&self, guard_run: u64) -> Result<bool, ActionError> {
        let mut permit = self.lock();
        if guard_run > permit.run {
            self.write(&mut permit, |old| Permit { run: guard_run, ..old })?;
            return Ok(true);
        }
        let intact = match self.driver.read_permit() {
            Ok(found) => found == Some(*permit),
            Err(_) => false,
        };
        // Nothing was ever written: an order to stay down needs no file.
        if intact || (permit.run == 0 && !permit.order.lets_run()) {
            return Ok(false);
        }
        self.driver.write_permit(&permit)?;
        Ok(true)
    }

    /// Moves the deadline of a primary permit. Returns whether there was one of that epoch.
    ///
    /// # Errors
    /// If it could not be written: then the old deadline stands.
    pub fn extend(&self, epoch: Epoch, deadline: BootNanos) -> Result<bool, ActionError> {
        let mut permit = self.lock();
        match permit.order {
            Order::Primary { epoch: current, deadline: old }
                if current == epoch && permit.burnt < epoch =>
            {
                if deadline > old {
                    let order = Order::Primary { epoch, deadline };
                    self.write(&mut permit, |old| Permit { order, ..old })?;
                }
                Ok(true)
            }
            Order::Down { .. } | Order::Standby | Order::Primary { .. } => Ok(false),
        }
    }

    /// Takes the deadline away from a primary permit, for a pause. Returns whether there is one of that epoch.
    ///
    /// # Errors
    /// If it could not be written: then the old deadline stands.
    pub fn unbound(&self, epoch: Epoch) -> Result<bool, ActionError> {
        if let Order::Primary { deadline, .. } = self.current().order
            && deadline != UNBOUND
        {
            self.limited_until.store(deadline.0, Ordering::Relaxed);
        }
        self.extend(epoch, UNBOUND)
    }

    /// Returns the last deadline that the permit had before a pause took it away. A guard that reports that one,
    /// or an earlier one, may not have read yet what was written since.
    pub fn limited_until(&self) -> BootNanos {
        BootNanos(self.limited_until.load(Ordering::Relaxed))
    }

    /// Gives a primary permit without a deadline one again, at the end of a pause: a later one than it ever had,
    /// so that the guard's report tells them apart. Nothing is written otherwise.
    ///
    /// # Errors
    /// If it could not be written: then there is none yet.
    pub fn bound(&self, epoch: Epoch, deadline: BootNanos) -> Result<(), ActionError> {
        let mut permit = self.lock();
        let later = deadline > self.limited_until();
        if later && permit.order == (Order::Primary { epoch, deadline: UNBOUND }) {
            let order = Order::Primary { epoch, deadline };
            self.write(&mut permit, |old| Permit { order, ..old })?;
        }
        Ok(())
    }

    /// Returns whether the permit is a primary one without a deadline.
    pub fn is_unbound(&self) -> bool {
        matches!(self.current().order, Order::Primary { deadline: UNBOUND, .. })
    }

    /// Permits the standby of that run to become primary.
    ///
    /// # Errors
    /// If the epoch is burnt, nothing runs, another run was asked for meanwhile (what was proven of this one
    /// does not hold for that), or the permit could not be written.
    pub fn make_primary(
        &self,
        run: u64,
        epoch: Epoch,
        deadline: BootNanos,
    ) -> Result<(), ActionError> {
        let mut permit = self.lock();
        refuse_burnt(&permit, epoch)?;
        if permit.run != run {
            return Err(cannot("permit a promotion", "another run was asked for"));
        }
        if !permit.order.lets_run() {
            return Err(cannot("permit a promotion", "the standby is being stopped"));
        }
        self.write(&mut permit, |old| Permit { order: Order::Primary { epoch, deadline }, ..old })
    }

    /// Asks for a new run as a standby. `after` is the last run that the guard knows of.
    ///
    /// # Errors
    /// If it could not be written.
    pub fn start_standby(&self, after: u64) -> Result<u64, ActionError> {
        let mut permit = self.lock();
        let run = permit.run.max(after) + 1;
        self.write(&mut permit, |old| Permit { run, order: Order::Standby, ..old })?;
        Ok(run)
    }

    /// Asks for a new run as a primary of the same epoch, after a crash.
    ///
    /// # Errors
    /// If the permit is not a primary one of that epoch any more, or it could not be written.
    pub fn restart_in_place(
        &self,
        epoch: Epoch,
        deadline: BootNanos,
        after: u64,
    ) -> Result<u64, ActionError> {
        let mut permit = self.lock();
        refuse_burnt(&permit, epoch)?;
        match permit.order {
            Order::Primary { epoch: current, .. } if current == epoch => {}
            Order::Down { .. } | Order::Standby | Order::Primary { .. } => {
                return Err(cannot("restart in place", "there is no permit of that epoch left"));
            }
        }
        self.rerun(&mut permit, epoch, deadline, after)
    }

    /// Asks for a new run as a primary of the same epoch, after a fast stop of it that led to nothing.
    ///
    /// The guard holds us to it: it starts a primary only if its run before was primary under that epoch.
    ///
    /// # Errors
    /// If it was not stopped so, the epoch was given up, or it could not be written.
    pub fn restart_after_stop(
        &self,
        epoch: Epoch,
        deadline: BootNanos,
        after: u64,
    ) -> Result<u64, ActionError> {
        let mut permit = self.lock();
        refuse_burnt(&permit, epoch)?;
        if permit.order != (Order::Down { stop: StopMode::Fast }) {
            return Err(cannot("start again", "it was not stopped in order"));
        }
        self.rerun(&mut permit, epoch, deadline, after)
    }

    fn rerun(
        &self,
        permit: &mut Permit,
        epoch: Epoch,
        deadline: BootNanos,
        after: u64,
    ) -> Result<u64, ActionError> {
        let run = permit.run.max(after) + 1;
        let order = Order::Primary { epoch, deadline };
        self.write(permit, |old| Permit { run, order, ..old })?;
        Ok(run)
    }

    /// Orders the database down.
    ///
    /// An immediate stop burns the epoch of a primary permit, so that the guard kills at once. A fast one
    /// does not yet: the guard lets the server write its shutdown checkpoint and send it, for as long
    /// as the old deadline allows. The permit is no primary one any more either way.
    ///
    /// # Errors
    /// If it could not be written.
    pub fn down(&self, stop: StopMode) -> Result<(), ActionError> {
        let mut permit = self.lock();
        let order = Order::Down { stop };
        let burnt = match stop {
            StopMode::Fast => permit.burnt,
            StopMode::Immediate => burnt_with(&permit, Epoch::NONE),
        };
        if permit.order == order && permit.burnt == burnt {
            return Ok(());
        }
        self.write(&mut permit, |old| Permit { burnt, order, ..old })
    }

    /// Gives an epoch up for good, before anybody is told: a primary permit becomes an order to stop, a
    /// standby goes on.
    ///
    /// # Errors
    /// If it could not be written: then nobody may be told.
    pub fn burn(&self, epoch: Epoch) -> Result<(), ActionError> {
        let mut permit = self.lock();
        let burnt = permit.burnt.max(epoch);
        let order = match permit.order {
            // A later grant to this node is not touched by what is said of an earlier one.
            Order::Primary { epoch: own, .. } if own <= epoch => {
                Order::Down { stop: StopMode::Immediate }
            }
            other @ (Order::Primary { .. } | Order::Standby | Order::Down { .. }) => other,
        };
        if permit.order == order && permit.burnt == burnt {
            return Ok(());
        }
        self.write(&mut permit, |old| Permit { burnt, order, ..old })
    }

    fn write(
        &self,
        slot: &mut Permit,
        change: impl FnOnce(Permit) -> Permit,
    ) -> Result<(), ActionError> {
        let permit = change(*slot);
        self.driver.write_permit(&permit)?;
        *slot = permit;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Permit> {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn burnt_with(permit: &Permit, epoch: Epoch) -> Epoch {
    let own = match permit.order {
        Order::Primary { epoch, .. } => epoch,
        Order::Down { .. } | Order::Standby => Epoch::NONE,
    };
    permit.burnt.max(own).max(epoch)
}

fn refuse_burnt(permit: &Permit, epoch: Epoch) -> Result<(), ActionError> {
    if epoch <= permit.burnt {
        return Err(cannot("be primary", &format!("epoch {epoch} was given up on this node")));
    }
    Ok(())
}

fn cannot(action: &str, why: &str) -> ActionError {
    ActionError::Cannot { action: action.to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ha_postgres::fake::{FakeDriver, FakeWorld};

    use super::*;

    const LATER: BootNanos = BootNanos(u64::MAX);
    const FAST: Order = Order::Down { stop: StopMode::Fast };
    const IMMEDIATE: Order = Order::Down { stop: StopMode::Immediate };

    fn driver() -> Arc<FakeDriver> {
        let node = "n1".parse().expect("a valid name");
        Arc::new(FakeWorld::new().driver(&node, "127.0.0.1", 1, Duration::from_millis(500)))
    }

    fn book() -> PermitBook<FakeDriver> {
        let boot = crate::clock::boot_id().expect("a boot id");
        PermitBook::load(driver(), boot, true)
    }

    fn primary_of(epoch: u64) -> PermitBook<FakeDriver> {
        let book = book();
        book.start_standby(0).expect("written");
        book.make_primary(book.current().run, Epoch(epoch), LATER).expect("written");
        book
    }

    #[test]
    fn an_epoch_that_was_given_up_is_never_permitted_again() {
        let book = primary_of(4);
        book.burn(Epoch(4)).expect("written");
        assert_eq!((book.current().order, book.current().burnt), (IMMEDIATE, Epoch(4)));
        assert!(!book.extend(Epoch(4), LATER).expect("nothing written"));
        book.start_standby(0).expect("written");
        assert!(book.make_primary(book.current().run, Epoch(4), LATER).is_err());
        assert!(book.make_primary(book.current().run, Epoch(3), LATER).is_err());
        assert!(book.make_primary(book.current().run, Epoch(5), LATER).is_ok());
    }

    #[test]
    fn what_is_said_of_an_earlier_grant_does_not_touch_the_present_one() {
        let book = primary_of(5);
        book.burn(Epoch(4)).expect("written");
        assert_eq!(book.current().order, Order::Primary { epoch: Epoch(5), deadline: LATER });
    }

    #[test]
    fn a_planned_stop_burns_nothing_yet_so_that_the_guard_lets_the_server_finish() {
        let book = primary_of(4);
        book.down(StopMode::Fast).expect("written");
        assert_eq!((book.current().order, book.current().burnt), (FAST, Epoch::NONE));
        assert!(!book.extend(Epoch(4), LATER).expect("nothing written"), "no renewal undoes it");
    }

    #[test]
    fn a_fence_burns_the_epoch_with_it() {
        let book = primary_of(4);
        book.down(StopMode::Immediate).expect("written");
        assert_eq!((book.current().order, book.current().burnt), (IMMEDIATE, Epoch(4)));
    }

    #[test]
    fn a_promotion_that_comes_after_the_fence_is_refused() {
        let book = book();
        book.start_standby(0).expect("written");
        book.down(StopMode::Immediate).expect("written");
        assert!(book.make_primary(book.current().run, Epoch(4), LATER).is_err());
    }

    #[test]
    fn a_promotion_of_a_run_that_was_replaced_meanwhile_is_refused() {
        let book = book();
        let run = book.start_standby(0).expect("written");
        book.start_standby(run).expect("written");
        assert!(book.make_primary(run, Epoch(4), LATER).is_err());
        assert_eq!(book.current().order, Order::Standby);
        assert!(book.make_primary(run + 1, Epoch(4), LATER).is_ok());
    }

    #[test]
    fn a_restart_after_a_stop_needs_a_fast_stop_and_an_epoch_that_was_kept() {
        let book = primary_of(4);
        assert!(book.restart_after_stop(Epoch(4), LATER, 1).is_err(), "it was not stopped");
        book.down(StopMode::Fast).expect("written");
        let run = book.restart_after_stop(Epoch(4), LATER, 1).expect("written");
        assert_eq!((run, book.current().run), (2, 2));
        book.down(StopMode::Immediate).expect("written");
        assert!(book.restart_after_stop(Epoch(4), LATER, 2).is_err(), "it was fenced");
        let book = primary_of(4);
        book.down(StopMode::Fast).expect("written");
        book.burn(Epoch(4)).expect("written");
        assert!(book.restart_after_stop(Epoch(4), LATER, 1).is_err(), "it was given up");
    }

    #[test]
    fn a_restart_in_place_needs_the_permit_of_the_same_epoch() {
        let book = primary_of(4);
        assert!(book.restart_in_place(Epoch(5), LATER, 1).is_err());
        let run = book.current().run;
        assert_eq!(book.restart_in_place(Epoch(4), LATER, run).expect("written"), run + 1);
        book.down(StopMode::Fast).expect("written");
        assert!(book.restart_in_place(Epoch(4), LATER, run).is_err());
    }

    #[test]
    fn runs_only_grow_whoever_counted_last() {
        let book = book();
        assert_eq!(book.start_standby(7).expect("written"), 8);
        assert_eq!(book.start_standby(0).expect("written"), 9);
    }

    #[test]
    fn a_permit_of_another_life_of_the_store_permits_nothing() {
        let driver = driver();
        let boot = crate::clock::boot_id().expect("a boot id");
        let first = PermitBook::load(Arc::clone(&driver), boot, true);
        first.start_standby(0).expect("written");
        first.make_primary(first.current().run, Epoch(9), LATER).expect("written");
        let same = PermitBook::load(Arc::clone(&driver), boot, true);
        assert_eq!(same.current(), first.current());
        let other = PermitBook::load(driver, boot, false);
        assert_eq!((other.current().order, other.current().burnt), (FAST, Epoch::NONE));
    }

    #[test]
    fn a_permit_that_knows_less_than_the_guard_is_written_as_an_order_to_stop() {
        let book = book();
        assert!(!book.mend(0).expect("nothing to do"));
        assert!(book.mend(3).expect("written"));
        assert_eq!((book.current().run, book.current().order), (3, FAST));
    }
}
