//! Lists of objects, read in pages, so that neither the API server nor the caller holds a large
//! response.

use std::{fmt::Debug, future::Future};

use futures::{Stream, TryStreamExt, stream};
use kube::{
    Api, Resource,
    api::{ListParams, ObjectList},
    core::PartialObjectMeta,
};
use serde::de::DeserializeOwned;

/// Objects per page where the parameters of a list have no limit, as in kubectl.
pub const PAGE_SIZE: u32 = 500;
/// Value of `max_objects` for lists that must be complete.
pub const NO_LIMIT: usize = usize::MAX;

/// Lists objects in pages of `params.limit` or of [`PAGE_SIZE`]. The stream ends after the last
/// page, after the page that reaches `max_objects`, or after an error: with 410 the list has
/// expired, and the caller starts again.
pub fn list_pages<K>(
    api: &Api<K>,
    params: ListParams,
    max_objects: usize,
) -> impl Stream<Item = kube::Result<Vec<K>>> + use<K>
where
    K: Clone + DeserializeOwned + Debug,
{
    let api = api.clone();
    follow_pages(params, max_objects, move |params| {
        let api = api.clone();
        async move { api.list(&params).await }
    })
}

/// Lists the metadata of objects, otherwise as [`list_pages`].
pub fn list_metadata_pages<K>(
    api: &Api<K>,
    params: ListParams,
    max_objects: usize,
) -> impl Stream<Item = kube::Result<Vec<PartialObjectMeta<K>>>> + use<K>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let api = api.clone();
    follow_pages(params, max_objects, move |params| {
        let api = api.clone();
        async move { api.list_metadata(&params).await }
    })
}

/// Returns all objects of a list, read as by [`list_pages`].
pub async fn list_all<K>(
    api: &Api<K>,
    params: ListParams,
    max_objects: usize,
) -> kube::Result<Vec<K>>
where
    K: Clone + DeserializeOwned + Debug,
{
    list_pages(api, params, max_objects).try_concat().await
}

/// Requests pages with `list` until one has no `continue` token or `max_objects` is reached.
fn follow_pages<T, F>(
    mut params: ListParams,
    max_objects: usize,
    list: impl Fn(ListParams) -> F,
) -> impl Stream<Item = kube::Result<Vec<T>>>
where
    T: Clone,
    F: Future<Output = kube::Result<ObjectList<T>>>,
{
    params.limit.get_or_insert(PAGE_SIZE);
    stream::try_unfold(Some((params, max_objects)), move |next| {
        let request = next.map(|(params, left)| (list(params.clone()), params, left));
        async move {
            let Some((page, params, left)) = request else { return Ok(None) };
            let page = page.await?;
            let left = left.saturating_sub(page.items.len());
            let token = page.metadata.continue_.filter(|token| !token.is_empty() && left > 0);
            let next = token.map(|token| (params.continue_token(&token), left));
            Ok(Some((page.items, next)))
        }
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures::{StreamExt, executor::block_on};
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    /// Returns page `number` of three pages with two items each.
    fn page(number: u32) -> ObjectList<u32> {
        let token = if number < 2 { format!("page-{}", number + 1) } else { String::new() };
        let items = [2 * number, 2 * number + 1];
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "List", "metadata": {"continue": token}, "items": items,
        }))
        .unwrap()
    }

    /// Limit and token of a request.
    type PageRequest = (Option<u32>, Option<String>);

    /// Lists the pages. Returns the items and the requests.
    fn list(params: ListParams, max_objects: usize) -> (Vec<u32>, Vec<PageRequest>) {
        let requests = RefCell::new(Vec::new());
        let pages = follow_pages(params, max_objects, |params| {
            let number = requests.borrow().len().try_into().unwrap();
            requests.borrow_mut().push((params.limit, params.continue_token));
            async move { Ok(page(number)) }
        });
        let items = block_on(pages.try_concat()).unwrap();
        (items, requests.into_inner())
    }

    #[test]
    fn every_page_is_read() {
        let (items, _) = list(ListParams::default(), NO_LIMIT);
        assert_eq!(items, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn requests_have_the_limit_and_the_token_of_the_page_before() {
        let (_, requests) = list(ListParams::default(), NO_LIMIT);
        let token = |text: &str| Some(text.to_owned());
        let limit = Some(PAGE_SIZE);
        assert_eq!(requests, [(limit, None), (limit, token("page-1")), (limit, token("page-2"))]);
    }

    #[test]
    fn limit_of_the_parameters_is_kept() {
        let (_, requests) = list(ListParams::default().limit(7), 1);
        assert_eq!(requests, [(Some(7), None)]);
    }

    #[rstest]
    #[case(1, 2)]
    #[case(2, 2)]
    #[case(3, 4)]
    #[case(6, 6)]
    fn list_ends_with_the_page_that_reaches_the_bound(
        #[case] max_objects: usize,
        #[case] expected: usize,
    ) {
        assert_eq!(list(ListParams::default(), max_objects).0.len(), expected);
    }

    #[test]
    fn list_ends_with_an_error() {
        let failed = || kube::Error::LinesCodecMaxLineLengthExceeded;
        let pages =
            follow_pages::<u32, _>(
                ListParams::default(),
                NO_LIMIT,
                |_| async move { Err(failed()) },
            );
        let results: Vec<_> = block_on(pages.collect());
        assert!(matches!(results[..], [Err(_)]), "{results:?}");
    }
}
