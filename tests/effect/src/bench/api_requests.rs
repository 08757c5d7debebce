//! Numbers of requests, as the API server counts them.

use std::collections::BTreeMap;

/// Verbs of requests that change objects.
const WRITES: [&str; 5] = ["POST", "PUT", "PATCH", "APPLY", "DELETE"];

/// Numbers of writing requests by resource.
pub type Writes = BTreeMap<String, u64>;

/// Reads the numbers of writing requests from the metrics of an API server
/// (`apiserver_request_total`). Lines in another form are ignored.
#[must_use]
pub fn writes(metrics: &str) -> Writes {
    let mut sums = Writes::new();
    for line in metrics.lines() {
        let Some(rest) = line.strip_prefix("apiserver_request_total{") else { continue };
        let Some((labels, value)) = rest.rsplit_once("} ") else { continue };
        let label = |name: &str| {
            let start = labels.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix("=\""));
            start.and_then(|text| text.strip_suffix('"')).unwrap_or_default()
        };
        if !WRITES.contains(&label("verb")) {
            continue;
        }
        let Some(count) = value.split('.').next().and_then(|text| text.parse::<u64>().ok()) else {
            continue;
        };
        let sum = sums.entry(label("resource").to_owned()).or_default();
        *sum = sum.saturating_add(count);
    }
    sums
}

/// Returns the difference of two numbers of requests.
#[must_use]
pub fn since(before: &Writes, after: &Writes) -> Writes {
    let earlier = |resource: &String| before.get(resource).copied().unwrap_or_default();
    let difference = |(resource, count): (&String, &u64)| {
        (resource.clone(), count.saturating_sub(earlier(resource)))
    };
    after.iter().map(difference).filter(|(_, count)| *count > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = r#"
# TYPE apiserver_request_total counter
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="pods",scope="resource",subresource="status",verb="PATCH",version="v1"} 12
apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="pods",scope="resource",subresource="",verb="POST",version="v1"} 3
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="pods",scope="cluster",subresource="",verb="LIST",version="v1"} 99
apiserver_request_total{code="201",component="apiserver",dry_run="",group="batch",resource="jobs",scope="resource",subresource="",verb="POST",version="v1"} 1.0
other{verb="POST"} 5
"#;

    #[test]
    fn writes_are_summed_by_resource() {
        let sums = writes(METRICS);
        let expected = [("jobs", 1), ("pods", 15)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(sums, Writes::from(expected));
    }

    #[test]
    fn only_what_has_changed_is_in_the_difference() {
        let before = writes(METRICS);
        let mut after = before.clone();
        *after.get_mut("pods").unwrap() += 7;
        after.insert("events".to_owned(), 2);
        let expected = [("events", 2), ("pods", 7)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(since(&before, &after), Writes::from(expected));
    }
}
