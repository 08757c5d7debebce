//! Spans that record the duration of an admission, of a task and of each of its pulls.
//!
//! A span is created when it has ended, from the times known then: a task may outlive the process
//! that started it, and a successor knows only the state in the cluster. The trace ID is the UID of
//! the task without dashes, so that logs, objects (label `prewarm.io/task-uid`) and spans can be
//! joined without context propagation.
//!
//! Each span is also one log line with target `trace`: level info for tasks, debug for the others.
//! Without the feature `otel` the log is the only output.

use jiff::Timestamp;

/// Ended span.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// Name of the span: `task` for the root, `admission` or `pull` for its children.
    pub name: &'static str,
    /// UID of the task.
    pub task_uid: &'a str,
    /// Start time.
    pub start: Timestamp,
    /// End time.
    pub end: Timestamp,
    /// Further attributes, as key and value.
    pub attributes: &'a [(&'static str, &'a str)],
}

/// Name of the root span of a trace.
const ROOT: &str = "task";

/// Returns the trace ID of a task: 32 hexadecimal digits.
#[must_use]
pub fn trace_id(task_uid: &str) -> String {
    task_uid.chars().filter(char::is_ascii_hexdigit).collect()
}

/// Logs a span and, with the feature `otel`, exports it.
pub fn record(span: &Span<'_>) {
    let took = span.end.duration_since(span.start).as_millis();
    let trace = trace_id(span.task_uid);
    let attributes = || {
        span.attributes
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    // A task has one root span but many pulls, which are logged at debug level.
    if span.name == ROOT {
        tracing::info!(target: "trace", trace, span = span.name, took, attributes = attributes(), "ended");
    } else {
        tracing::debug!(target: "trace", trace, span = span.name, took, attributes = attributes(), "ended");
    }
    #[cfg(feature = "otel")]
    otel::export(span);
}

#[cfg(feature = "otel")]
pub use otel::{SpanExportGuard, start};

#[cfg(feature = "otel")]
mod otel {
    use std::{cell::Cell, time::SystemTime};

    use opentelemetry::{
        Context, KeyValue, SpanId, TraceFlags, TraceId, global,
        trace::{Span as _, SpanBuilder, SpanContext, TraceContextExt, TraceState, Tracer},
    };
    use opentelemetry_otlp::SpanExporter;
    use opentelemetry_sdk::{
        Resource,
        trace::{IdGenerator, RandomIdGenerator, SdkTracerProvider},
    };

    use super::{ROOT, Span, trace_id};

    thread_local! {
        /// IDs of the root span that is being built.
        static ROOT_IDS: Cell<Option<(TraceId, SpanId)>> = const { Cell::new(None) };
    }

    /// ID generator: random, except for root spans, whose IDs follow from the UID of the task.
    #[derive(Debug, Default)]
    struct SpanIdGenerator(RandomIdGenerator);

    impl IdGenerator for SpanIdGenerator {
        fn new_trace_id(&self) -> TraceId {
            ROOT_IDS.get().map_or_else(|| self.0.new_trace_id(), |ids| ids.0)
        }

        fn new_span_id(&self) -> SpanId {
            ROOT_IDS.get().map_or_else(|| self.0.new_span_id(), |ids| ids.1)
        }
    }

    /// Guard of the span exporter. Dropping it sends the buffered spans and stops the export.
    pub struct SpanExportGuard(SdkTracerProvider);

    impl Drop for SpanExportGuard {
        fn drop(&mut self) {
            if let Err(error) = self.0.shutdown() {
                tracing::warn!(%error, "buffered spans could not be exported at shutdown");
            }
        }
    }

    /// Starts the export of spans to `OTEL_EXPORTER_OTLP_ENDPOINT`. Returns `None` where the
    /// variable is empty or unset, or the exporter cannot be built.
    pub fn start() -> Option<SpanExportGuard> {
        std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").filter(|endpoint| !endpoint.is_empty())?;
        match SpanExporter::builder().with_http().build() {
            Ok(exporter) => Some(start_exporter(exporter)),
            Err(error) => {
                tracing::warn!(%error, "the OTLP exporter could not be built; spans are not exported");
                None
            }
        }
    }

    fn start_exporter(exporter: SpanExporter) -> SpanExportGuard {
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_id_generator(SpanIdGenerator::default())
            .with_resource(Resource::builder().with_service_name("prewarmer").build())
            .build();
        global::set_tracer_provider(provider.clone());
        SpanExportGuard(provider)
    }

    pub(super) fn export(span: &Span<'_>) {
        let trace = trace_id(span.task_uid);
        let Ok(trace_id) = TraceId::from_hex(&trace) else { return };
        let Ok(root) = SpanId::from_hex(trace.get(..16).unwrap_or_default()) else { return };
        let attributes =
            span.attributes.iter().map(|(key, value)| KeyValue::new(*key, (*value).to_owned()));
        let builder = SpanBuilder::from_name(span.name)
            .with_start_time(SystemTime::from(span.start))
            .with_attributes(attributes.collect::<Vec<_>>());
        let tracer = global::tracer("prewarmer");
        let mut built = if span.name == ROOT {
            ROOT_IDS.set(Some((trace_id, root)));
            let built = tracer.build_with_context(builder, &Context::new());
            ROOT_IDS.set(None);
            built
        } else {
            let parent =
                SpanContext::new(trace_id, root, TraceFlags::SAMPLED, true, TraceState::default());
            tracer.build_with_context(builder, &Context::new().with_remote_span_context(parent))
        };
        built.end_with_timestamp(SystemTime::from(span.end));
    }

    #[cfg(test)]
    mod tests {
        use std::{
            io::{Read, Write},
            net::TcpListener,
        };

        use jiff::{SignedDuration, Timestamp};
        use opentelemetry_otlp::WithExportConfig;

        use super::*;

        /// Accepts one request as a collector does, and returns its bytes.
        fn collect(listener: &TcpListener) -> Vec<u8> {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut request, mut part) = (Vec::new(), [0; 4096]);
            loop {
                let length = stream.read(&mut part).unwrap();
                request.extend_from_slice(&part[..length]);
                let text = String::from_utf8_lossy(&request).to_lowercase();
                let Some(head) = text.find("\r\n\r\n") else { continue };
                let length = text
                    .split("content-length: ")
                    .nth(1)
                    .and_then(|rest| rest.lines().next())
                    .unwrap();
                let body = request.len()
                    - (request.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4);
                assert!(head > 0 && text.starts_with("post /v1/traces"), "{text}");
                if body >= length.trim().parse::<usize>().unwrap() {
                    break;
                }
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                .unwrap();
            request
        }

        #[test]
        fn spans_of_a_task_are_exported_as_one_trace() {
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
            let collector = std::thread::spawn(move || collect(&listener));
            let exporting = start_exporter(
                SpanExporter::builder().with_http().with_endpoint(endpoint).build().unwrap(),
            );
            let (start, uid) = (Timestamp::UNIX_EPOCH, "0a6d1f3e-7a2c-4f67-8d33-3a2a8a5f0c11");
            let end = start + SignedDuration::from_secs(5);
            for (name, attributes) in
                [("pull", &[("node", "node-1")]), ("task", &[("task", "tonight")])]
            {
                export(&Span { name, task_uid: uid, start, end, attributes });
            }
            drop(exporting);
            let request = collector.join().unwrap();
            let has = |bytes: &[u8]| {
                request.windows(bytes.len()).filter(|window| *window == bytes).count()
            };
            let trace = TraceId::from_hex(&trace_id(uid)).unwrap().to_bytes();
            let root = SpanId::from_hex(&trace_id(uid)[..16]).unwrap().to_bytes();
            assert_eq!(has(&trace), 2, "both spans have the same trace ID");
            // The trace ID, which occurs twice, begins with the ID of the root span, which also
            // occurs as a span ID and as the parent ID of the pull.
            assert_eq!(has(&root), 4, "the root span is the parent of the pull");
            assert!(has(b"tonight") == 1 && has(b"node-1") == 1 && has(b"prewarmer") >= 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_has_the_tasks_uid() {
        assert_eq!(
            trace_id("0a6d1f3e-7a2c-4f67-8d33-3a2a8a5f0c11"),
            "0a6d1f3e7a2c4f678d333a2a8a5f0c11"
        );
    }
}
