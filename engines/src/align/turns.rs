//! One session for many requests, which take turns in the order they ask: a long request that asks again and again
//! cannot keep a short one waiting, and a request that is stopped leaves the line.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ort::session::Session;

use crate::error::Result;
use crate::session::RunGuard;

/// How often a request in the line asks whether it was stopped.
const STOP_POLL: Duration = Duration::from_millis(20);

/// A session and the line before it.
pub(super) struct Turns {
    session: Mutex<Session>,
    line: Mutex<VecDeque<u64>>,
    moved: Condvar,
    next: AtomicU64,
}

/// The session, until it is dropped. Fields drop in order: the session is free before the next request is called.
pub(super) struct Turn<'a> {
    session: MutexGuard<'a, Session>,
    _place: Place<'a>,
}

/// A place in the line.
struct Place<'a> {
    turns: &'a Turns,
    number: u64,
}

impl Turns {
    pub(super) fn new(session: Session) -> Self {
        Self {
            session: Mutex::new(session),
            line: Mutex::default(),
            moved: Condvar::new(),
            next: AtomicU64::new(0),
        }
    }

    /// Waits for the session.
    ///
    /// # Errors
    /// [`crate::EngineError::Cancelled`] when the guard is stopped while waiting.
    pub(super) fn take(&self, run: &RunGuard) -> Result<Turn<'_>> {
        let place = Place {
            turns: self,
            number: self.next.fetch_add(1, Ordering::Relaxed),
        };
        let mut line = self.line();
        line.push_back(place.number);
        while line.front() != Some(&place.number) {
            line = self
                .moved
                .wait_timeout(line, STOP_POLL)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            if run.is_stopped() {
                // Leaving the line locks it again.
                drop(line);
                run.check()?;
                line = self.line();
            }
        }
        drop(line);
        run.check()?;
        Ok(Turn {
            session: self.session.lock().unwrap_or_else(PoisonError::into_inner),
            _place: place,
        })
    }

    fn line(&self) -> MutexGuard<'_, VecDeque<u64>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.turns.line().retain(|number| *number != self.number);
        self.turns.moved.notify_all();
    }
}

impl Deref for Turn<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl DerefMut for Turn<'_> {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}
