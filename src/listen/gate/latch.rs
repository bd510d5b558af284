//! What the gate and the service behind hyper tell each other.
//!
//! hyper stands between the two and has no words for it: that a request was refused before hyper saw it, that
//! its answer has ended, that the connection speaks another protocol from now on. What must never enter:
//! bytes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use crate::listen::pace::Pace;
use crate::refusal::Refusal;

/// One connection's latch: closed behind each request until its answer has ended.
pub struct Latch {
    pace: Rc<Pace>,
    refusal: RefCell<Option<Refusal>>,
    answered: Cell<bool>,
    open: Cell<bool>,
    broken: Cell<bool>,
    /// The connection's task, while bytes of the next request wait.
    waiting: RefCell<Option<Waker>>,
}

impl Latch {
    pub(in crate::listen) fn new(pace: Rc<Pace>) -> Rc<Self> {
        Rc::new(Self {
            pace,
            refusal: RefCell::new(None),
            answered: Cell::new(false),
            open: Cell::new(false),
            broken: Cell::new(false),
            waiting: RefCell::new(None),
        })
    }

    /// A latch of a connection that nobody paces.
    pub fn alone() -> Rc<Self> {
        Self::new(Pace::fresh(Arc::default()))
    }

    /// Why the request that hyper has just read is a stand-in for one that was refused; told once.
    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal.borrow_mut().take()
    }

    /// The answer has ended: the next request may pass.
    pub fn answered(&self) {
        self.answered.set(true);
        self.wake();
    }

    /// From now on everything passes as it comes: the connection speaks another protocol (RFC 9110 section
    /// 7.8). To be called before the 101 goes out.
    pub fn open(&self) {
        self.open.set(true);
        self.wake();
    }

    /// Whether a request's body was faulty behind a head that had passed: its answer is the last one.
    pub fn is_broken(&self) -> bool {
        self.broken.get()
    }

    pub(super) fn breaks(&self) {
        self.broken.set(true);
    }

    pub(super) fn refuse(&self, refusal: Refusal) {
        self.refusal.replace(Some(refusal));
    }

    /// A request passes, and nothing behind it until it is answered.
    pub(super) fn asked(&self) {
        self.answered.set(false);
    }

    pub(super) fn head_begins(&self) {
        self.pace.read_some();
    }

    pub(super) fn is_answered(&self) -> bool {
        self.answered.get()
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.get()
    }

    /// Wakes this task when the answer has ended.
    pub(super) fn wait(&self, cx: &Context<'_>) {
        self.waiting.replace(Some(cx.waker().clone()));
    }

    fn wake(&self) {
        if let Some(task) = self.waiting.borrow_mut().take() {
            task.wake();
        }
    }
}
