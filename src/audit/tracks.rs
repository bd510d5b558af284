//! Every chain followed from record to record, in memory that depends on the number of chains only.
//!
//! A record that does not fit is not believed at once: its prev says that the one before was altered,
//! but it may be the altered one itself. The next record of the chain, or an anchor, vouches for one of
//! the two. So the record that is named is the one that was touched.

use std::collections::BTreeMap;

use super::Anchor;
use super::line::{Record, genesis};
use super::problem::Problem;
use super::record::{Hash, Head};

/// More problems than this between two anchors are not told apart.
const MOST: usize = 1000;

/// All chains of a file, and what was found since the last anchor.
#[derive(Default)]
pub(super) struct Tracks {
    chains: BTreeMap<Box<str>, Track>,
    found: Found,
}

struct Track {
    /// The newest record that fits.
    last: Place,
    /// One behind it that does not.
    misfit: Option<Misfit>,
    /// Records behind the last anchor.
    unsealed: bool,
}

#[derive(Clone, Copy)]
struct Place {
    line: u64,
    seq: u64,
    hash: Hash,
    /// Whether an anchor vouches for it.
    sealed: bool,
}

#[derive(Clone, Copy)]
struct Misfit {
    line: u64,
    seq: u64,
    hash: Hash,
}

#[derive(Default)]
struct Found {
    problems: Vec<Problem>,
    /// Which of the problems are lines that stand where another record may have stood.
    strays: Vec<usize>,
    gaps: Vec<Gap>,
}

/// Records `first..=last` of a chain that should stand between two lines and do not.
struct Gap {
    chain: Box<str>,
    first: u64,
    last: u64,
    behind: u64,
    noticed: u64,
}

impl Tracks {
    /// The next record of the file.
    pub(super) fn record(&mut self, line: u64, record: &Record<'_>, hash: Hash) {
        let Self { chains, found } = self;
        if !chains.contains_key(record.chain) {
            chains.insert(record.chain.into(), Track::of(record.chain));
        }
        let Some(track) = chains.get_mut(record.chain) else { return };
        track.unsealed = true;
        let fits = |last: &Place| record.seq == last.seq.saturating_add(1) && record.prev == last.hash;
        if let Some(misfit) = track.misfit.take() {
            let next = misfit.seq.checked_add(1) == Some(record.seq);
            if fits(&track.last) {
                found.stray(record.chain, misfit);
            } else if next && record.prev == misfit.hash {
                track.believe(record.chain, misfit, found);
            } else if next && misfit.seq == track.last.seq.saturating_add(1) {
                found.altered(record.chain, misfit.seq, misfit.line);
                track.last = Place { line: misfit.line, seq: misfit.seq, hash: record.prev, sealed: false };
            } else {
                found.stray(record.chain, misfit);
            }
        }
        let seq = record.seq;
        if fits(&track.last) {
            track.last = Place { line, seq, hash, sealed: false };
        } else {
            track.misfit = Some(Misfit { line, seq, hash });
        }
    }

    /// A line that is no record.
    pub(super) fn damaged(&mut self, line: u64, what: &str) {
        self.found.problem(line, None, None, what.to_owned());
        self.found.strays.push(self.found.problems.len().saturating_sub(1));
    }

    /// Something else that is wrong.
    pub(super) fn problem(&mut self, line: u64, seq: Option<u64>, what: &str) {
        self.found.problem(line, Some(super::line::ANCHOR_CHAIN), seq, what.to_owned());
    }

    /// Anchors `first..=last` are missing before `line`.
    pub(super) fn anchors_missing(&mut self, first: u64, last: u64, line: u64) {
        self.found.gap(super::line::ANCHOR_CHAIN, first, last, (0, line));
    }

    /// An anchor that bears out its signature: what it names is what was written.
    pub(super) fn seal(&mut self, line: u64, anchor: &Anchor) {
        for head in &anchor.heads {
            let track = self.chains.entry((*head.chain).into()).or_insert_with(|| Track::of(&head.chain));
            track.seal(line, head, &mut self.found);
        }
        let named: Vec<&str> = anchor.heads.iter().map(|head| &*head.chain).collect();
        let found = &mut self.found;
        self.chains.retain(|chain, track| {
            let keep = named.contains(&&**chain);
            if !keep && track.unsealed {
                if let Some(misfit) = track.misfit.take() {
                    found.stray(chain, misfit);
                }
                if track.last.seq > 0 && !track.last.sealed {
                    let what = "belongs to a chain that the next anchor does not name";
                    found.problem(track.last.line, Some(chain), Some(track.last.seq), what.into());
                }
            }
            keep
        });
    }

    /// An anchor behind segments that are not here: where it says that the chains stand, they are followed from.
    pub(super) fn begin(&mut self, line: u64, anchor: &Anchor) {
        let track = |head: &Head| {
            let last = Place { line, seq: head.seq, hash: head.hash, sealed: true };
            ((*head.chain).into(), Track { last, misfit: None, unsealed: false })
        };
        self.chains = anchor.heads.iter().map(track).collect();
    }

    /// The file ends: nobody vouches for what is still open.
    pub(super) fn end(&mut self, line: u64) {
        let Self { chains, found } = self;
        for (chain, track) in chains {
            let Some(misfit) = track.misfit.take() else { continue };
            if misfit.seq == track.last.seq.saturating_add(1) && !track.last.sealed && track.last.seq > 0 {
                let what = "or the record after it was altered";
                found.problem(track.last.line, Some(chain), Some(track.last.seq), what.into());
            } else if misfit.seq > track.last.seq.saturating_add(1) {
                found.gap(chain, track.last.seq.saturating_add(1), misfit.seq - 1, (track.last.line, line));
            } else {
                found.stray(chain, misfit);
            }
        }
    }

    /// Whether nothing was found since it was last asked for.
    pub(super) fn clean(&self) -> bool {
        self.found.problems.is_empty() && self.found.gaps.is_empty()
    }

    /// Whether all that was found is that `line` is no record.
    pub(super) fn only_damaged(&self, line: u64) -> bool {
        let [problem] = self.found.problems.as_slice() else { return false };
        problem.line == line && problem.chain.is_none() && self.found.gaps.is_empty()
    }

    /// What was found since it was last asked for. A missing record in whose place a line that fits
    /// nowhere stands is that line.
    pub(super) fn take(&mut self) -> Vec<Problem> {
        let Found { mut problems, strays, gaps } = std::mem::take(&mut self.found);
        for gap in gaps {
            let mut candidates = strays.iter().copied();
            let stray = candidates.find(|at| problems.get(*at).is_some_and(|p| gap.is_explained_by(p)));
            match stray.and_then(|at| problems.get_mut(at)) {
                Some(problem) => {
                    problem.chain = Some(gap.chain.into());
                    problem.seq = Some(gap.first);
                }
                None => problems.push(gap.into()),
            }
        }
        problems.sort_by_key(|problem| problem.line);
        problems
    }
}

impl Track {
    fn of(chain: &str) -> Self {
        let last = Place { line: 0, seq: 0, hash: genesis(chain), sealed: true };
        Self { last, misfit: None, unsealed: false }
    }

    /// Takes over a misfit that was vouched for, and says what that makes of the one before it.
    fn believe(&mut self, chain: &str, misfit: Misfit, found: &mut Found) {
        let Misfit { line, seq, hash } = misfit;
        if seq > self.last.seq.saturating_add(1) {
            found.gap(chain, self.last.seq.saturating_add(1), seq - 1, (self.last.line, line));
        } else if seq == self.last.seq.saturating_add(1) && !self.last.sealed {
            found.altered(chain, self.last.seq, self.last.line);
        } else {
            found.problem(line, Some(chain), Some(seq), "does not follow what stands before it".into());
        }
        self.last = Place { line, seq, hash, sealed: false };
    }

    fn seal(&mut self, line: u64, head: &Head, found: &mut Found) {
        let chain = &*head.chain;
        if let Some(misfit) = self.misfit.take() {
            if (self.last.seq, self.last.hash) == (head.seq, head.hash) {
                found.stray(chain, misfit);
            } else if (misfit.seq, misfit.hash) == (head.seq, head.hash) {
                self.believe(chain, misfit, found);
            } else if misfit.seq == head.seq && misfit.seq == self.last.seq.saturating_add(1) {
                found.altered(chain, misfit.seq, misfit.line);
                self.last = Place { line: misfit.line, seq: misfit.seq, hash: head.hash, sealed: false };
            } else {
                found.stray(chain, misfit);
            }
        }
        if self.last.seq < head.seq {
            found.gap(chain, self.last.seq.saturating_add(1), head.seq, (self.last.line, line));
        } else if self.last.seq > head.seq {
            let what = "stands before an anchor that does not name it";
            found.problem(self.last.line, Some(chain), Some(self.last.seq), what.into());
        } else if self.last.hash != head.hash {
            found.altered(chain, self.last.seq, self.last.line);
        }
        self.last = Place { line, seq: head.seq, hash: head.hash, sealed: true };
        self.unsealed = false;
    }
}

impl Found {
    fn problem(&mut self, line: u64, chain: Option<&str>, seq: Option<u64>, what: String) {
        if self.problems.len() < MOST {
            self.problems.push(Problem { file: None, line, chain: chain.map(str::to_owned), seq, what });
        }
    }

    fn altered(&mut self, chain: &str, seq: u64, line: u64) {
        self.problem(line, Some(chain), Some(seq), "was altered".into());
    }

    fn stray(&mut self, chain: &str, misfit: Misfit) {
        let what = "does not fit its chain: it was altered, moved or added";
        self.problem(misfit.line, Some(chain), Some(misfit.seq), what.into());
        self.strays.push(self.problems.len().saturating_sub(1));
    }

    fn gap(&mut self, chain: &str, first: u64, last: u64, (behind, noticed): (u64, u64)) {
        if self.gaps.len() < MOST {
            self.gaps.push(Gap { chain: chain.into(), first, last, behind, noticed });
        }
    }
}

impl Gap {
    fn is_explained_by(&self, problem: &Problem) -> bool {
        let here = self.behind < problem.line && problem.line < self.noticed;
        let same = problem.chain.as_deref() == Some(&*self.chain) && problem.seq == Some(self.first);
        self.first == self.last && (here || same)
    }
}

impl From<Gap> for Problem {
    fn from(gap: Gap) -> Self {
        let Gap { chain, first, last, noticed, .. } = gap;
        let what = match last - first {
            0 => "is missing before this line".to_owned(),
            more => format!("and the {more} behind it are missing before this line"),
        };
        Self { file: None, line: noticed, chain: Some(chain.into()), seq: Some(first), what }
    }
}
