//! The machine under the world: virtual time, one queue of events, and tasks that wait in it.
//!
//! Tasks are ordinary futures, so that the simulated agent reads like the real one. They are polled one
//! at a time, in the order of the queue; nothing else decides what comes next.

use std::cell::{RefCell, RefMut};
use std::cmp::Ordering;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::agent::Agent;
use super::event::Event;
use super::host::Host;
use super::state::World;

/// A moment of true time, nanoseconds since the world began.
pub(crate) type Time = u64;

/// Milliseconds of true time.
pub(crate) const MS: u64 = 1_000_000;

/// What waits in the queue.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) at: Time,
    pub(crate) order: u64,
    pub(crate) event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives the greatest first.
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// A task's work.
pub(crate) type Work = Pin<Box<dyn Future<Output = ()>>>;

/// A task of one start of an agent.
pub(crate) struct Task {
    /// Absent while it is polled.
    pub(crate) work: Option<Work>,
    pub(crate) host: usize,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a task of host {}", self.host)
    }
}

/// The world, as everything in it sees it.
#[derive(Debug, Clone)]
pub(crate) struct Sim(Rc<RefCell<World>>);

impl Sim {
    pub(crate) fn new(world: World) -> Self {
        Self(Rc::new(RefCell::new(world)))
    }

    pub(crate) fn world(&self) -> RefMut<'_, World> {
        self.0.borrow_mut()
    }

    /// Polls one task, if it is still there.
    pub(crate) fn poll(&self, id: u64) {
        let work = {
            let mut world = self.world();
            world.current = id;
            world.tasks.get_mut(&id).and_then(|task| task.work.take())
        };
        let Some(mut work) = work else { return };
        let mut context = Context::from_waker(Waker::noop());
        let done = work.as_mut().poll(&mut context).is_ready();
        let mut world = self.world();
        if done {
            world.tasks.remove(&id);
        } else if let Some(task) = world.tasks.get_mut(&id) {
            task.work = Some(work);
            return;
        }
        drop(world);
        // It may hold what gives itself back when it is dropped.
        drop(work);
    }
}

/// One start of an agent, as its tasks see it.
#[derive(Debug, Clone)]
pub(crate) struct Ctx {
    pub(crate) sim: Sim,
    pub(crate) host: usize,
}

impl Ctx {
    pub(crate) fn world(&self) -> RefMut<'_, World> {
        self.sim.world()
    }

    pub(crate) fn host(&self) -> RefMut<'_, Host> {
        RefMut::map(self.world(), |world| &mut world.hosts[self.host])
    }

    pub(crate) fn agent(&self) -> RefMut<'_, Agent> {
        RefMut::map(self.world(), |world| world.agent(self.host))
    }

    /// Starts a task beside this one. Returns its number.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + 'static) -> u64 {
        self.world().spawn(self.host, Box::pin(work))
    }

    /// Waits for that long, by this host's clock.
    pub(crate) fn sleep(&self, span: Duration) -> Sleep {
        let world = self.world();
        let until = world.now + world.hosts[self.host].clock.true_span(span);
        Sleep { sim: self.sim.clone(), until, armed: false }
    }

    /// Waits for a result for at most that long.
    pub(crate) async fn timeout<F: Future>(&self, span: Duration, work: F) -> Option<F::Output> {
        let timeout = Timeout { work: Box::pin(work), sleep: self.sleep(span) };
        timeout.await
    }
}

/// Waits until a moment.
#[derive(Debug)]
pub(crate) struct Sleep {
    sim: Sim,
    until: Time,
    armed: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        let mut world = self.sim.world();
        if world.now >= self.until {
            return Poll::Ready(());
        }
        if !self.armed {
            let task = world.current;
            world.at(self.until, Event::Wake(task));
            drop(world);
            self.armed = true;
        }
        Poll::Pending
    }
}

struct Timeout<F: Future> {
    work: Pin<Box<F>>,
    sleep: Sleep,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(done) = self.work.as_mut().poll(context) {
            return Poll::Ready(Some(done));
        }
        Pin::new(&mut self.sleep).poll(context).map(|()| None)
    }
}

/// Waits for all of them.
pub(crate) async fn join_all<T>(works: Vec<Pin<Box<dyn Future<Output = T>>>>) -> Vec<T> {
    JoinAll { done: works.iter().map(|_| None).collect(), works }.await
}

struct JoinAll<T> {
    works: Vec<Pin<Box<dyn Future<Output = T>>>>,
    done: Vec<Option<T>>,
}

impl<T> Unpin for JoinAll<T> {}

impl<T> Future for JoinAll<T> {
    type Output = Vec<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Vec<T>> {
        let this = &mut *self;
        for (work, done) in this.works.iter_mut().zip(&mut this.done) {
            if done.is_none()
                && let Poll::Ready(value) = work.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if this.done.iter().all(Option::is_some) {
            return Poll::Ready(this.done.drain(..).flatten().collect());
        }
        Poll::Pending
    }
}

/// Where one result arrives, once.
#[derive(Debug)]
pub(crate) struct Slot<T>(Rc<RefCell<Filling<T>>>);

#[derive(Debug)]
struct Filling<T> {
    value: Option<T>,
    waiter: Option<u64>,
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> Slot<T> {
    pub(crate) fn new() -> Self {
        Self(Rc::new(RefCell::new(Filling { value: None, waiter: None })))
    }

    /// Puts the result there and wakes whoever waits.
    pub(crate) fn fill(&self, world: &mut World, value: T) {
        let mut slot = self.0.borrow_mut();
        slot.value = Some(value);
        if let Some(task) = slot.waiter.take() {
            world.after(0, Event::Wake(task));
        }
    }

    pub(crate) fn wait(&self, sim: &Sim) -> Wait<T> {
        Wait { slot: self.clone(), sim: sim.clone() }
    }
}

/// Waits for a slot to be filled.
#[derive(Debug)]
pub(crate) struct Wait<T> {
    slot: Slot<T>,
    sim: Sim,
}

impl<T> Future for Wait<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<T> {
        let mut slot = self.slot.0.borrow_mut();
        if let Some(value) = slot.value.take() {
            return Poll::Ready(value);
        }
        slot.waiter = Some(self.sim.world().current);
        Poll::Pending
    }
}
