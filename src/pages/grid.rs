//! Data of the node grid: the node names once, and one state letter per node with each update.

use prewarmer_core::task::{BatchPolicy, Status, batches::divide_into_batches};
use prewarmer_kube::store::TaskDetail;

/// Returns the state letters of the grid: those of `nodeStates`, with `a` for nodes of the current
/// batch that are being warmed. Pure: no client, no clock, no I/O.
pub(super) fn node_letters(detail: &TaskDetail, status: Status, at_once: usize) -> String {
    let mut letters = detail.node_states.as_bytes().to_vec();
    if status == Status::Running {
        let current = divide_into_batches(&letters, detail.policy, at_once).current_batch;
        let range = current.map(|batch| batch.nodes).unwrap_or_default();
        let waiting = |letters: &[u8], index: &usize| letters.get(*index) == Some(&b'.');
        // With the rolling policy, the first waiting nodes of the window are being warmed.
        let most = if detail.policy == BatchPolicy::Rolling { at_once } else { usize::MAX };
        let at_work: Vec<usize> =
            range.filter(|index| waiting(&letters, index)).take(most).collect();
        for index in at_work {
            letters[index] = b'a';
        }
    }
    String::from_utf8_lossy(&letters).into_owned()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("ss......", BatchPolicy::Barrier, 4, "ssaa....")]
    #[case("s.......", BatchPolicy::Rolling, 3, "saaa....")]
    #[case("sf1s....", BatchPolicy::Barrier, 4, "sf1saaaa")]
    #[case("ssssssss", BatchPolicy::Barrier, 4, "ssssssss")]
    fn nodes_of_the_current_batch_are_marked(
        #[case] states: &str,
        #[case] policy: BatchPolicy,
        #[case] at_once: usize,
        #[case] shown: &str,
    ) {
        let detail = TaskDetail { node_states: states.into(), policy, ..TaskDetail::default() };
        assert_eq!(node_letters(&detail, Status::Running, at_once), shown);
        assert_eq!(node_letters(&detail, Status::Cancelled, at_once), states);
    }
}
