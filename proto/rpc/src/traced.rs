//! The traces of a call, in its metadata.

use tern_runtime::traces::{PLACES, TRACEPARENT, Traces};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

pub(crate) fn put_traces(metadata: &mut MetadataMap, traces: &Traces) {
    if traces.is_empty() {
        return;
    }
    let (values, places) = traces.headers();
    // Letters, digits and a few signs: they are always a value.
    let value = |text: String| AsciiMetadataValue::try_from(text).ok();
    for value in values.filter_map(value) {
        metadata.append(TRACEPARENT, value);
    }
    if let Some(places) = value(places) {
        metadata.insert(PLACES, places);
    }
}

/// Which of the requests that travel in a call are traced.
pub fn traces_of(metadata: &MetadataMap) -> Traces {
    let places = metadata.get(PLACES).and_then(|places| places.to_str().ok()).unwrap_or_default();
    let values = metadata.get_all(TRACEPARENT).into_iter().map(|value| value.to_str().ok());
    Traces::of_headers(values, places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_come_through_metadata() {
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().ok();
        let traces = Traces::of([trace.clone(), None, trace]);
        let mut metadata = MetadataMap::new();
        put_traces(&mut metadata, &traces);
        assert_eq!(metadata.get_all(TRACEPARENT).into_iter().count(), 2);
        assert_eq!(traces_of(&metadata), traces);
        assert!(traces_of(&MetadataMap::new()).is_empty());
    }
}
