//! Finds a wall clock that was moved: compared with the clock that is never stepped.
//!
//! Only callers' tokens, expiry and stamps go by the wall clock; a jump may let expired tokens pass or refuse
//! good ones, so it is an alert. What must never enter: a time-to-live.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A move beyond this is a jump; slower ones are a clock that is being corrected.
const JUMP_MS: i128 = 60_000;
/// A clock that stays where it jumped to is taken for right.
const BELIEVED_AFTER: Duration = Duration::from_secs(600);

/// Tells the time since 1970.
pub type WallClock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The wall clock under watch.
pub struct Drift {
    wall: WallClock,
    began: Instant,
    seen: Mutex<Seen>,
}

struct Seen {
    /// Wall clock less steady clock, as it was before a jump.
    right: i128,
    /// Where it jumped to, and when.
    jumped: Option<(i128, Instant)>,
}

impl Drift {
    /// Takes the present time for right.
    pub fn of(wall: WallClock) -> Self {
        let began = Instant::now();
        let right = offset(&wall, began);
        Self { wall, began, seen: Mutex::new(Seen { right, jumped: None }) }
    }

    /// The system's own clock.
    pub fn system() -> Self {
        Self::of(Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
    }

    /// By how many seconds the clock is away from where it should be, if it jumped. To be asked once a second.
    pub fn look(&self) -> Option<i64> {
        let now = offset(&self.wall, self.began);
        // Whole data: nothing under this lock can stop half-way.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if (now - seen.right).abs() <= JUMP_MS {
            *seen = Seen { right: now, jumped: None };
            return None;
        }
        let jumped = seen.jumped.filter(|(to, _)| (now - to).abs() <= JUMP_MS);
        let (_, at) = *seen.jumped.insert(jumped.unwrap_or_else(|| (now, Instant::now())));
        if at.elapsed() >= BELIEVED_AFTER {
            *seen = Seen { right: now, jumped: None };
            return None;
        }
        Some(i64::try_from((now - seen.right) / 1000).unwrap_or(i64::MAX))
    }
}

fn offset(wall: &WallClock, began: Instant) -> i128 {
    let ms = |duration: Duration| i128::try_from(duration.as_millis()).unwrap_or(i128::MAX);
    ms(wall()) - ms(began.elapsed())
}
