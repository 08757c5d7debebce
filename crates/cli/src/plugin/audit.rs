//! `audit`: waits for images, as `prewarmer audit` reports them.

use super::{
    args::OutputFormat,
    client::ClusterClient,
    error::{CommandError, CommandResult},
    output::{Output, print},
};
use crate::audit::{self, AuditArgs, AuditError, AuditOptions, ReadLimits};

pub(super) async fn audit(context: &ClusterClient, out: Output, args: &AuditArgs) -> CommandResult {
    if out.format == Some(OutputFormat::Name) {
        let message = "audit has no names to print: use -o json, -o yaml or no -o";
        return Err(CommandError::Usage(message.into()));
    }
    let namespace = (!context.all_namespaces).then(|| context.namespace.clone());
    let options = AuditOptions::new(args, namespace)?;
    let report = audit::audit(&context.client, &options, &ReadLimits::default()).await?;
    if out.wants_objects() {
        let value = serde_json::to_value(&report);
        let value = value.map_err(|error| AuditError::Output(error.to_string()))?;
        return out.print_value(&value);
    }
    print(&audit::text(&report))
}

impl From<AuditError> for CommandError {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Namespace(_) => Self::Usage(error.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}
