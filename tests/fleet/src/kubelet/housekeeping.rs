//! Periodic work: garbage collection of images, disk pressure and the node's status.
//!
//! Facts about disk pressure (`pkg/kubelet/eviction`): the free share below the threshold sets the
//! condition; the kubelet removes the ended containers of pods that have ended, then all images that
//! no container uses, and rejects new pods; the condition changes back after five minutes without
//! pressure. That running pods are evicted when this frees too little is not simulated, since the
//! simulated disk contains nothing of them.

use std::{collections::BTreeSet, time::Duration};

use super::{
    record::{Life, Pod},
    state::{Kubelet, ReportedNode},
    timers::Timer,
};
use crate::{image::Digest, output::Report, time::SimTime, world::World};

/// Shortest period of garbage collection: a period of zero would let no time pass.
const MIN_COLLECT_PERIOD: Duration = Duration::from_secs(1);

impl Kubelet {
    /// Makes a pass of the garbage collection, and sets the timer of the next one.
    pub(super) fn collect_garbage(&mut self, world: &mut World) {
        let in_use = self.images_in_use();
        let policy = self.settings.gc;
        let report = self.store.collect(&policy, &in_use, self.started, world.now);
        world.counters.evicted(self.node, &report.evictions);
        let period = policy.period.max(MIN_COLLECT_PERIOD);
        self.timers.set(Timer::Collect, world.now.after(period));
    }

    fn images_in_use(&self) -> BTreeSet<Digest> {
        self.pods.values().flat_map(Pod::images_in_use).collect()
    }

    fn is_disk_low(&self) -> bool {
        self.store.free_percent() < self.settings.pressure_percent
    }

    /// Looks at the free space: under pressure removes what is not in use.
    pub(super) fn look_at_disk(&mut self, world: &mut World) {
        let now = world.now;
        if self.is_disk_low() {
            self.pressure.is_true = true;
            self.pressure.last_seen = now;
            let ended = self.pods.values_mut().filter(|pod| pod.life == Life::Ended);
            for container in ended.flat_map(|pod| &mut pod.containers) {
                container.is_removed = true;
            }
            let in_use = self.images_in_use();
            let evictions = self.store.remove_unused(&self.settings.gc, &in_use, now);
            world.counters.evicted(self.node, &evictions);
            self.timers.set(Timer::Pressure, self.pressure_tick(now));
        } else if self.pressure.is_true {
            let end = self.pressure.last_seen.after(self.settings.pressure_transition);
            if now < end {
                self.timers.set(Timer::Pressure, end);
            } else {
                self.pressure.is_true = false;
            }
        }
    }

    fn pressure_tick(&self, now: SimTime) -> SimTime {
        now.next_tick(self.settings.pressure_period, self.offset)
    }

    /// Sets the timers that a change of the store makes necessary.
    pub(super) fn notice_changes(&mut self, now: SimTime) {
        if self.is_disk_low() {
            self.timers.set_earlier(Timer::Pressure, self.pressure_tick(now));
        }
        let period = self.settings.node_status_period;
        if self.pressure.is_true != self.reported.has_disk_pressure {
            self.timers.set_earlier(Timer::NodeStatus, now.next_tick(period, self.offset));
        } else if self.reported.revision != Some(self.store.revision()) {
            // The status has the images of the kubelet's list, which is updated less often.
            let listed = now.next_tick(self.settings.image_list_period, self.offset);
            let at = listed.next_tick(period, self.offset);
            self.timers.set_earlier(Timer::NodeStatus, at);
        }
    }

    /// Reports the status of the node if it has changed.
    pub(super) fn report_node(&mut self, world: &mut World) {
        let reported = ReportedNode {
            revision: Some(self.store.revision()),
            images: self.store.images_for_status(self.settings.max_status_images),
            has_disk_pressure: self.pressure.is_true,
        };
        let is_changed = self.reported.revision.is_none()
            || self.reported.images != reported.images
            || self.reported.has_disk_pressure != reported.has_disk_pressure;
        if is_changed {
            let (images, has_disk_pressure) = (reported.images.clone(), reported.has_disk_pressure);
            world.report(self.node, Report::NodeStatus { images, has_disk_pressure });
        }
        self.reported = reported;
    }
}
