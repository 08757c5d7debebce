//! Timers of a kubelet.
//!
//! Each purpose has at most one timer: setting it again replaces it, and those of a deleted pod are
//! cancelled. The number of timers is therefore bounded by pods, containers and layers, also after
//! any number of changes. Timers that are due at the same time fire in the order of [`Timer`].

use std::collections::{BTreeMap, BTreeSet};

use crate::{ids::PodId, image::Digest, time::SimTime};

/// Purpose of a timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The registry begins to send a layer.
    LayerRequested(Digest),
    /// A layer is unpacked.
    LayerUnpacked(Digest),
    /// The registry answers a request of the pod's pull.
    Pull(PodId),
    /// A container of the pod ends, by its index.
    Exit(PodId, usize),
    /// The stopped containers of a pod have ended.
    Stopped(PodId),
    /// The sandbox is created, or a container is created or started.
    Step(PodId),
    /// The pod's active deadline.
    Deadline(PodId),
    /// The kubelet notices changed states of the pod's containers.
    Relist(PodId),
    /// The pod is synchronized again after a failure.
    Retry(PodId),
    /// Garbage collection of images.
    Collect,
    /// Look at the free space.
    Pressure,
    /// Update of the node's status.
    NodeStatus,
}

#[cfg(test)]
impl Timer {
    /// Returns the pod that the timer belongs to.
    fn pod(self) -> Option<PodId> {
        match self {
            Self::Pull(pod)
            | Self::Exit(pod, _)
            | Self::Stopped(pod)
            | Self::Step(pod)
            | Self::Deadline(pod)
            | Self::Relist(pod)
            | Self::Retry(pod) => Some(pod),
            Self::LayerRequested(_)
            | Self::LayerUnpacked(_)
            | Self::Collect
            | Self::Pressure
            | Self::NodeStatus => None,
        }
    }
}

/// Timers by purpose and by time.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    times: BTreeMap<Timer, SimTime>,
    queue: BTreeSet<(SimTime, Timer)>,
}

impl Timers {
    /// Sets a timer, in place of the one with the same purpose.
    pub(crate) fn set(&mut self, timer: Timer, at: SimTime) {
        if let Some(before) = self.times.insert(timer, at) {
            self.queue.remove(&(before, timer));
        }
        self.queue.insert((at, timer));
    }

    /// Sets a timer unless there is one that is due earlier.
    pub(crate) fn set_earlier(&mut self, timer: Timer, at: SimTime) {
        if self.times.get(&timer).is_none_or(|before| at < *before) {
            self.set(timer, at);
        }
    }

    /// Cancels a timer.
    pub(crate) fn cancel(&mut self, timer: Timer) {
        if let Some(at) = self.times.remove(&timer) {
            self.queue.remove(&(at, timer));
        }
    }

    /// Cancels all timers of a pod with this many containers.
    pub(crate) fn cancel_pod(&mut self, pod: PodId, containers: usize) {
        let further = [
            Timer::Pull(pod),
            Timer::Stopped(pod),
            Timer::Step(pod),
            Timer::Deadline(pod),
            Timer::Relist(pod),
            Timer::Retry(pod),
        ];
        for timer in (0..containers).map(|index| Timer::Exit(pod, index)).chain(further) {
            self.cancel(timer);
        }
    }

    /// Returns the time at which the next timer is due.
    pub(crate) fn next(&self) -> Option<SimTime> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Removes and returns the next timer that is due.
    pub(crate) fn pop_due(&mut self, now: SimTime) -> Option<Timer> {
        let (at, timer) = *self.queue.first().filter(|(at, _)| *at <= now)?;
        self.queue.remove(&(at, timer));
        self.times.remove(&timer);
        Some(timer)
    }

    /// Returns the number of timers of a pod.
    #[cfg(test)]
    pub(crate) fn count(&self, pod: PodId) -> usize {
        self.times.keys().filter(|timer| timer.pod() == Some(pod)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SimTime {
        SimTime::from_secs(seconds)
    }

    #[test]
    fn a_purpose_has_one_timer() {
        let mut timers = Timers::default();
        timers.set(Timer::Collect, at(5));
        timers.set(Timer::Collect, at(9));
        timers.set_earlier(Timer::Collect, at(10));
        assert_eq!(timers.next(), Some(at(9)));
        timers.set_earlier(Timer::Collect, at(7));
        assert_eq!(timers.next(), Some(at(7)));
        assert_eq!(timers.pop_due(at(6)), None);
        assert_eq!(timers.pop_due(at(7)), Some(Timer::Collect));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn simultaneous_timers_fire_in_the_order_of_their_purposes() {
        let mut timers = Timers::default();
        let pod = PodId(1);
        for timer in [Timer::Collect, Timer::Retry(pod), Timer::Exit(pod, 1), Timer::Exit(pod, 0)] {
            timers.set(timer, at(1));
        }
        let fired: Vec<Timer> = std::iter::from_fn(|| timers.pop_due(at(1))).collect();
        let expected =
            [Timer::Exit(pod, 0), Timer::Exit(pod, 1), Timer::Retry(pod), Timer::Collect];
        assert_eq!(fired, expected);
    }

    #[test]
    fn a_deleted_pod_leaves_no_timer() {
        let mut timers = Timers::default();
        let pod = PodId(1);
        for timer in [Timer::Exit(pod, 2), Timer::Pull(pod), Timer::Relist(PodId(2))] {
            timers.set(timer, at(1));
        }
        timers.cancel_pod(pod, 3);
        assert_eq!((timers.count(pod), timers.count(PodId(2))), (0, 1));
    }
}
