//! Lists in pages, within bounds on objects, bytes, requests and time. A page is held in memory as
//! its bytes, and its objects are decoded one by one, so that an object that cannot be decoded does
//! not affect the others.

use std::{future::Future, io, time::Duration};

use futures::AsyncReadExt;
use kube::{Client, api::ListParams, core::Request};
use prewarmer_kube::list::PAGE_SIZE;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

/// Largest number of events: 200 pages. One takes 80 bytes here, and each different text once.
const MAX_EVENTS: usize = 100_000;
/// Largest number of pods, the limit that Kubernetes is designed for: 300 pages. One takes about
/// 300 bytes here.
const MAX_PODS: usize = 150_000;
/// Largest number of `ReplicaSet`s, and of Jobs: 100 pages.
const MAX_OWNERS: usize = 50_000;
/// Largest number of nodes, as of a plan: 50 pages.
const MAX_NODES: usize = 25_000;
/// Largest page: 500 objects of 64 KiB. An event of a kubelet has 1 KiB, and the metadata of a pod
/// mostly 3 KiB.
const MAX_PAGE_BYTES: usize = 32 << 20;
/// Largest sum of all pages: 100,000 events of 1 KiB and 250,000 other objects of 3 KiB.
const MAX_TOTAL_BYTES: usize = 1 << 30;
/// Largest number of requests: those of all pages above, and a third more for smaller pages.
const MAX_REQUESTS: u32 = 1000;
/// Longest time for all requests, which the API server answers at about 10 pages a second.
const MAX_TIME: Duration = Duration::from_secs(180);
/// Factor by which a page becomes smaller after one that was too large.
const SMALLER_PAGE: u32 = 10;
/// Status of a list whose continue token has expired, which it does after about five minutes.
const GONE: u16 = 410;

/// Bounds on what an audit reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimits {
    /// Number of events.
    pub events: usize,
    /// Number of pods.
    pub pods: usize,
    /// Number of `ReplicaSet`s, and of Jobs.
    pub owners: usize,
    /// Number of nodes.
    pub nodes: usize,
    /// Bytes of one page.
    pub page_bytes: usize,
    /// Bytes of all pages.
    pub total_bytes: usize,
    /// Number of requests.
    pub requests: u32,
    /// Time for all requests.
    pub time: Duration,
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self {
            events: MAX_EVENTS,
            pods: MAX_PODS,
            owners: MAX_OWNERS,
            nodes: MAX_NODES,
            page_bytes: MAX_PAGE_BYTES,
            total_bytes: MAX_TOTAL_BYTES,
            requests: MAX_REQUESTS,
            time: MAX_TIME,
        }
    }
}

/// Failure of a list.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The request failed.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// The response ended early.
    #[error("the response was interrupted")]
    Interrupted(#[source] io::Error),
    /// The response is no list.
    #[error("the response is no list of objects")]
    Malformed(#[source] serde_json::Error),
    /// A bound was reached before the first page.
    #[error("no page was read {0}")]
    Bound(Bound),
}

/// Bound at which a list ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Bound {
    /// Number of objects.
    #[error("after {0} objects")]
    Objects(usize),
    /// Bytes of all pages, or of a page with a single object.
    #[error("within {0} bytes")]
    Bytes(usize),
    /// Number of requests.
    #[error("within {0} requests")]
    Requests(u32),
    /// Time for all requests, in seconds.
    #[error("within {0} s")]
    Time(u64),
    /// The list expired while its pages were read.
    #[error("before the list expired")]
    Expired,
}

/// List to read.
pub(super) struct ListRequest {
    /// Path of the collection.
    pub(super) path: String,
    /// Field selector.
    pub(super) fields: Option<&'static str>,
    /// True to read the metadata only.
    pub(super) metadata: bool,
    /// Largest number of objects.
    pub(super) most: usize,
}

/// End of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ListEnd {
    /// Number of objects that were read.
    pub(super) read: usize,
    /// Bound that was reached; none where the list is complete.
    pub(super) bound: Option<Bound>,
}

/// Response with a list.
#[derive(Deserialize)]
struct PageBody<'a> {
    #[serde(default)]
    metadata: PageMetadata,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

/// Metadata of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PageMetadata {
    #[serde(rename = "continue")]
    token: Option<String>,
}

/// Result of one request.
enum PageRead {
    /// Bytes of the page.
    Page(Vec<u8>),
    /// The page is larger than permitted.
    TooLarge,
    /// A bound was reached.
    Ended(Bound),
}

/// Reader of lists, with what is left of the bounds.
pub(super) struct PageReader<'a> {
    client: &'a Client,
    limits: &'a ReadLimits,
    bytes_left: usize,
    requests_left: u32,
    deadline: Instant,
}

impl<'a> PageReader<'a> {
    /// Creates a reader. The time begins now.
    pub(super) fn new(client: &'a Client, limits: &'a ReadLimits) -> Self {
        Self {
            client,
            limits,
            bytes_left: limits.total_bytes,
            requests_left: limits.requests,
            deadline: Instant::now() + limits.time,
        }
    }

    /// Reads a list and calls `each` with the JSON of every object. Ends without an error when a
    /// bound is reached after the first page.
    pub(super) async fn read(
        &mut self,
        list: &ListRequest,
        mut each: impl FnMut(&RawValue),
    ) -> Result<ListEnd, ReadError> {
        let page_size = u32::try_from(list.most).unwrap_or(PAGE_SIZE).clamp(1, PAGE_SIZE);
        let mut params = ListParams::default().limit(page_size);
        params.field_selector = list.fields.map(str::to_owned);
        let mut read = 0;
        loop {
            let bytes = match self.page(list, &params).await? {
                PageRead::Page(bytes) => bytes,
                PageRead::TooLarge => {
                    let limit = params.limit.unwrap_or(PAGE_SIZE);
                    if limit > 1 {
                        params.limit = Some((limit / SMALLER_PAGE).max(1));
                        continue;
                    }
                    return ended(read, Bound::Bytes(self.limits.page_bytes));
                }
                PageRead::Ended(bound) => return ended(read, bound),
            };
            let page: PageBody<'_> =
                serde_json::from_slice(&bytes).map_err(ReadError::Malformed)?;
            let items = page.items.unwrap_or_default();
            items.iter().take(list.most.saturating_sub(read)).for_each(|item| each(item));
            read = (read + items.len()).min(list.most);
            let Some(token) = page.metadata.token.filter(|token| !token.is_empty()) else {
                return Ok(ListEnd { read, bound: None });
            };
            if read >= list.most {
                return ended(read, Bound::Objects(list.most));
            }
            params = params.continue_token(&token);
        }
    }

    /// Requests a page and reads at most the permitted number of bytes.
    async fn page(
        &mut self,
        list: &ListRequest,
        params: &ListParams,
    ) -> Result<PageRead, ReadError> {
        if let Some(bound) = self.exhausted() {
            return Ok(PageRead::Ended(bound));
        }
        self.requests_left -= 1;
        let request = Request::new(&list.path);
        let request =
            if list.metadata { request.list_metadata(params) } else { request.list(params) };
        let request = request.map_err(kube::Error::BuildRequest)?;
        let most = self.limits.page_bytes.min(self.bytes_left);
        let (client, deadline) = (self.client, self.deadline);
        let Some(bytes) = before(deadline, read_body(client, request, most)).await else {
            return Ok(PageRead::Ended(self.time_bound()));
        };
        let bytes = match bytes {
            Err(ReadError::Api(kube::Error::Api(status))) if status.code == GONE => {
                return Ok(PageRead::Ended(Bound::Expired));
            }
            other => other?,
        };
        self.bytes_left = self.bytes_left.saturating_sub(bytes.len());
        if bytes.len() <= most {
            return Ok(PageRead::Page(bytes));
        }
        Ok(self.exhausted().map_or(PageRead::TooLarge, PageRead::Ended))
    }

    /// Returns the bound of which nothing is left.
    fn exhausted(&self) -> Option<Bound> {
        if self.requests_left == 0 {
            Some(Bound::Requests(self.limits.requests))
        } else if self.bytes_left == 0 {
            Some(Bound::Bytes(self.limits.total_bytes))
        } else if Instant::now() >= self.deadline {
            Some(self.time_bound())
        } else {
            None
        }
    }

    fn time_bound(&self) -> Bound {
        Bound::Time(self.limits.time.as_secs())
    }
}

/// Returns the end of a list at a bound, which is an error where no page was read.
fn ended(read: usize, bound: Bound) -> Result<ListEnd, ReadError> {
    if read == 0 {
        return Err(ReadError::Bound(bound));
    }
    Ok(ListEnd { read, bound: Some(bound) })
}

/// Waits for a result until a time.
async fn before<T>(deadline: Instant, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout_at(deadline, work).await.ok()
}

/// Reads the body of a response, one byte more than `most` where it is longer.
async fn read_body(
    client: &Client,
    request: http::Request<Vec<u8>>,
    most: usize,
) -> Result<Vec<u8>, ReadError> {
    let body = client.request_stream(request).await?;
    let mut bytes = Vec::new();
    let most = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    let mut body = std::pin::pin!(body.take(most));
    body.read_to_end(&mut bytes).await.map_err(ReadError::Interrupted)?;
    Ok(bytes)
}
