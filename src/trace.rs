//! Spans: what an admission, a task and each of its pulls took.
//!
//! A span is made when it has ended, from times that are known then: a task outlives the process that began it, and what is
//! in the cluster is all that a successor has. The trace's id is the task's UID without its dashes, so that logs,
//! objects (label `prewarm.io/task-uid`) and spans join without anything being handed on.
//!
//! Without the feature `otel` spans are lines of the log, level debug.

use jiff::Timestamp;

/// A span that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// `task`, which is the root; `admission` or `pull`, which are its children.
    pub name: &'static str,
    /// The task's UID.
    pub task_uid: &'a str,
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// What else is known of it.
    pub attributes: &'a [(&'static str, &'a str)],
}

/// The root of a trace.
const ROOT: &str = "task";

/// The trace of a task: 32 hexadecimal digits.
#[must_use]
pub fn trace_id(task_uid: &str) -> String {
    task_uid.chars().filter(char::is_ascii_hexdigit).collect()
}

/// Tells of a span.
pub fn tell(span: &Span<'_>) {
    let took = span.end.duration_since(span.start).as_millis();
    let trace = trace_id(span.task_uid);
    let attributes =
        || span.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ");
    // The end of a task is worth a line; its pulls are many.
    if span.name == ROOT {
        tracing::info!(target: "trace", trace, span = span.name, took, attributes = attributes(), "ended");
    } else {
        tracing::debug!(target: "trace", trace, span = span.name, took, attributes = attributes(), "ended");
    }
    #[cfg(feature = "otel")]
    otel::export(span);
}

#[cfg(feature = "otel")]
pub use otel::{Exporting, start};

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
        /// The ids of the root that is being built.
        static ROOT_IDS: Cell<Option<(TraceId, SpanId)>> = const { Cell::new(None) };
    }

    /// Ids by chance, but for roots.
    #[derive(Debug, Default)]
    struct Ids(RandomIdGenerator);

    impl IdGenerator for Ids {
        fn new_trace_id(&self) -> TraceId {
            ROOT_IDS.get().map_or_else(|| self.0.new_trace_id(), |ids| ids.0)
        }

        fn new_span_id(&self) -> SpanId {
            ROOT_IDS.get().map_or_else(|| self.0.new_span_id(), |ids| ids.1)
        }
    }

    /// Sends spans as long as it is kept; what waits is sent when it is dropped.
    pub struct Exporting(SdkTracerProvider);

    impl Drop for Exporting {
        fn drop(&mut self) {
            if let Err(error) = self.0.shutdown() {
                tracing::warn!(%error, "the last spans could not be sent");
            }
        }
    }

    /// Begins to send spans to `OTEL_EXPORTER_OTLP_ENDPOINT`, if that is set.
    pub fn start() -> Option<Exporting> {
        std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").filter(|endpoint| !endpoint.is_empty())?;
        match SpanExporter::builder().with_http().build() {
            Ok(exporter) => Some(send_by(exporter)),
            Err(error) => {
                tracing::warn!(%error, "spans cannot be sent");
                None
            }
        }
    }

    fn send_by(exporter: SpanExporter) -> Exporting {
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_id_generator(Ids::default())
            .with_resource(Resource::builder().with_service_name("prewarmer").build())
            .build();
        global::set_tracer_provider(provider.clone());
        Exporting(provider)
    }

    pub(super) fn export(span: &Span<'_>) {
        let trace = trace_id(span.task_uid);
        let Ok(trace_id) = TraceId::from_hex(&trace) else { return };
        let Ok(root) = SpanId::from_hex(trace.get(..16).unwrap_or_default()) else { return };
        let attributes = span.attributes.iter().map(|(key, value)| KeyValue::new(*key, (*value).to_owned()));
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
            let parent = SpanContext::new(trace_id, root, TraceFlags::SAMPLED, true, TraceState::default());
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

        /// Takes one request as a collector would; its body.
        fn collect(listener: &TcpListener) -> Vec<u8> {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut request, mut part) = (Vec::new(), [0; 4096]);
            loop {
                let length = stream.read(&mut part).unwrap();
                request.extend_from_slice(&part[..length]);
                let text = String::from_utf8_lossy(&request).to_lowercase();
                let Some(head) = text.find("\r\n\r\n") else { continue };
                let length = text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
                let body = request.len() - (request.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4);
                assert!(head > 0 && text.starts_with("post /v1/traces"), "{text}");
                if body >= length.trim().parse::<usize>().unwrap() {
                    break;
                }
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
            request
        }

        #[test]
        fn a_collector_gets_the_task_and_its_pulls() {
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
            let collector = std::thread::spawn(move || collect(&listener));
            let exporting = send_by(SpanExporter::builder().with_http().with_endpoint(endpoint).build().unwrap());
            let (start, uid) = (Timestamp::UNIX_EPOCH, "0a6d1f3e-7a2c-4f67-8d33-3a2a8a5f0c11");
            let end = start + SignedDuration::from_secs(5);
            for (name, attributes) in [("pull", &[("node", "node-1")]), ("task", &[("task", "tonight")])] {
                export(&Span { name, task_uid: uid, start, end, attributes });
            }
            drop(exporting);
            let request = collector.join().unwrap();
            let has = |bytes: &[u8]| request.windows(bytes.len()).filter(|window| *window == bytes).count();
            let trace = TraceId::from_hex(&trace_id(uid)).unwrap().to_bytes();
            let root = SpanId::from_hex(&trace_id(uid)[..16]).unwrap().to_bytes();
            assert_eq!(has(&trace), 2, "one trace");
            // The trace's own id begins with the root's: the root as such, and as the pull's parent.
            assert_eq!(has(&root), 4, "the pull is the task's child");
            assert!(has(b"tonight") == 1 && has(b"node-1") == 1 && has(b"prewarmer") >= 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_has_the_tasks_uid() {
        assert_eq!(trace_id("0a6d1f3e-7a2c-4f67-8d33-3a2a8a5f0c11"), "0a6d1f3e7a2c4f678d333a2a8a5f0c11");
    }
}
