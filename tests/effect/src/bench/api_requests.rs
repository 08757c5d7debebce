//! Numbers of requests, as the API server counts them.

use std::collections::BTreeMap;

/// Verbs of requests that change objects.
const WRITES: [&str; 6] = ["POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"];
/// Resources whose writes do not count as those of a policy: Events are expired by the API server and
/// kept out of etcd's main data in large clusters, and the number of renewals of Leases follows from
/// the time.
const NOT_COUNTED: [&str; 2] = ["events", "leases"];
/// Resource of tasks.
const TASKS: &str = "prewarmtasks";

/// Numbers of requests since the start of the API server, or between two points in time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requests {
    /// Writing requests by resource.
    writes: BTreeMap<String, u64>,
    /// Created tasks.
    tasks: u64,
}

impl Requests {
    /// Reads the numbers from the metrics of an API server (`apiserver_request_total`). Lines in
    /// another form, and dry runs, are ignored.
    #[must_use]
    pub fn read(metrics: &str) -> Self {
        let mut requests = Self::default();
        for line in metrics.lines() {
            let Some(rest) = line.strip_prefix("apiserver_request_total{") else { continue };
            let Some((labels, value)) = rest.rsplit_once("} ") else { continue };
            let label = |name: &str| {
                let pairs = labels.split(',');
                let mut values =
                    pairs.filter_map(|pair| pair.strip_prefix(name)?.strip_prefix("=\""));
                values.next().and_then(|text| text.strip_suffix('"')).unwrap_or_default()
            };
            if !WRITES.contains(&label("verb")) || !label("dry_run").is_empty() {
                continue;
            }
            let Some(count) = whole(value) else { continue };
            let resource = label("resource");
            let sum = requests.writes.entry(resource.to_owned()).or_default();
            *sum = sum.saturating_add(count);
            let is_creation = label("verb") == "POST" && label("code") == "201";
            if resource == TASKS && is_creation && label("subresource").is_empty() {
                requests.tasks = requests.tasks.saturating_add(count);
            }
        }
        requests
    }

    /// Returns the requests after an earlier point in time.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let earlier = |resource: &String| before.writes.get(resource).copied().unwrap_or_default();
        let difference = |(resource, count): (&String, &u64)| {
            (resource.clone(), count.saturating_sub(earlier(resource)))
        };
        Self {
            writes: self.writes.iter().map(difference).filter(|(_, count)| *count > 0).collect(),
            tasks: self.tasks.saturating_sub(before.tasks),
        }
    }

    /// Returns the number of writing requests of all clients, without those of Events and Leases.
    #[must_use]
    pub fn writes(&self) -> u64 {
        let counted = self.writes.iter().filter(|(name, _)| !NOT_COUNTED.contains(&name.as_str()));
        counted.map(|(_, count)| *count).fold(0, u64::saturating_add)
    }

    /// Returns the number of created tasks.
    #[must_use]
    pub fn tasks(&self) -> u64 {
        self.tasks
    }
}

/// Parses a count in the notation of Go, which has an exponent from 1,000,000 on: `1.5e+06`.
fn whole(value: &str) -> Option<u64> {
    let value: f64 = value.trim().parse().ok()?;
    format!("{value:.0}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = r#"
# TYPE apiserver_request_total counter
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="pods",scope="resource",subresource="status",verb="PATCH",version="v1"} 12
apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="pods",scope="resource",subresource="",verb="POST",version="v1"} 3
apiserver_request_total{code="201",component="apiserver",dry_run="All",group="",resource="pods",scope="resource",subresource="",verb="POST",version="v1"} 50
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="pods",scope="cluster",subresource="",verb="LIST",version="v1"} 99
apiserver_request_total{code="201",component="apiserver",dry_run="",group="batch",resource="jobs",scope="resource",subresource="",verb="POST",version="v1"} 1.0
apiserver_request_total{code="200",component="apiserver",dry_run="",group="batch",resource="jobs",scope="namespace",subresource="",verb="DELETECOLLECTION",version="v1"} 1.5e+06
apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="events",scope="resource",subresource="",verb="POST",version="v1"} 40
apiserver_request_total{code="201",component="apiserver",dry_run="",group="prewarm.io",resource="prewarmtasks",scope="resource",subresource="",verb="POST",version="v1alpha1"} 4
apiserver_request_total{code="409",component="apiserver",dry_run="",group="prewarm.io",resource="prewarmtasks",scope="resource",subresource="",verb="POST",version="v1alpha1"} 2
apiserver_request_total{code="200",component="apiserver",dry_run="",group="prewarm.io",resource="prewarmtasks",scope="resource",subresource="status",verb="PATCH",version="v1alpha1"} 9
apiserver_request_total{verb="POST",resource="pods"} NaN
other{verb="POST"} 5
"#;

    #[test]
    fn writes_are_summed_without_events_and_dry_runs() {
        let requests = Requests::read(METRICS);
        assert_eq!(requests.writes["pods"], 15);
        assert_eq!(requests.writes["jobs"], 1_500_001);
        assert_eq!(requests.writes["events"], 40);
        assert_eq!(requests.writes(), 15 + 1_500_001 + 15);
    }

    #[test]
    fn only_successful_creations_of_tasks_count() {
        assert_eq!(Requests::read(METRICS).tasks(), 4);
    }

    #[test]
    fn only_what_has_changed_is_in_the_difference() {
        let before = Requests::read(METRICS);
        let later = METRICS.replace("} 12\n", "} 19\n").replace("} 4\n", "} 5\n");
        let difference = Requests::read(&later).since(&before);
        assert_eq!((difference.writes(), difference.tasks()), (8, 1));
        assert_eq!(difference.writes.len(), 2);
        assert_eq!(before.since(&before), Requests::default());
    }
}
