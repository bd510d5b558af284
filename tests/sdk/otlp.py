#!/usr/bin/env python3
"""What relay sends to an OpenTelemetry collector, read by OpenTelemetry's own messages.

    python tests/sdk/otlp.py path/to/relay

Needs tests/sdk/requirements.txt and a relay with the feature otel. Runs relay on disk with its audit and its traces
at a collector on loopback, calls a vendor through it, and parses all that the collector got. A field that the
messages do not have, or of another type, fails, and so does a span without its parent.
"""

import base64
import json
import secrets
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from google.protobuf import json_format
from on_disk import Relay, ask, describe, start_vendor
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

KINDS = {"/v1/logs": ExportLogsServiceRequest, "/v1/traces": ExportTraceServiceRequest}


class Collector(BaseHTTPRequestHandler):
    got: list = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert self.headers["content-type"] == "application/json", self.headers
        self.got.append((self.path, body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


def main() -> int:
    program = str(Path(sys.argv[1]).resolve())
    collector = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="relay-otlp-") as name:
        folder = Path(name)
        credential = "sk-" + secrets.token_urlsafe(30)
        (folder / "credential").write_text(credential)
        vendor, origin = start_vendor(program, folder)
        relay = Relay(program, folder / "relay")
        try:
            relay.call("init", "--local-issuer", "--dir", str(relay.folder))
            describe(relay, origin, folder / "vendor-ca.pem")
            tell(Path(relay.config), f"http://127.0.0.1:{collector.server_address[1]}")
            relay.start()
            secret = relay.call(
                "secret", "add", "--customer", "acme", "--integration", "github", "--config", relay.config,
                stdin=credential + "\n",
            )
            token = relay.call("token", "mint", "--customer", "acme", "--config", relay.config)
            url = f"{relay.url}/github/{secret}/user"
            assert ask(url, token)[0] == 200
            assert ask(url, "no-token-at-all")[0] == 401
            relay.stop()
            audit = (relay.folder / "audit.jsonl").read_text().splitlines()
        finally:
            collector.shutdown()
            for process in (relay.process, vendor):
                if process is not None and process.poll() is None:
                    process.kill()
                    process.wait()
    assert not any(credential.encode() in body for _, body in Collector.got), "the collector got the credential"
    logs(audit)
    traces()
    return 0


def tell(config: Path, collector: str) -> None:
    """The audit goes to the collector beside its file, and every request is traced."""
    text = config.read_text()
    lines = [line for line in text.splitlines() if not line.startswith("[traces]")]
    at = lines.index("[audit]")
    lines.insert(at + 1, f'otlp = {{ endpoint = "{collector}/v1/logs" }}')
    lines += ["[traces]", f'endpoint = "{collector}/v1/traces"', "sample = 1", ""]
    config.write_text("\n".join(lines))


def parsed(path: str) -> list:
    bodies = [json.loads(body) for to, body in Collector.got if to == path]
    return [json_format.ParseDict(ids_as_base64(body), KINDS[path]()) for body in bodies]


def ids_as_base64(value):
    """OTLP writes ids in hex, where the JSON of other protocol buffers has base64."""
    if isinstance(value, list):
        return [ids_as_base64(member) for member in value]
    if not isinstance(value, dict):
        return value
    ids = ("traceId", "spanId", "parentSpanId")
    return {
        key: base64.b64encode(bytes.fromhex(member)).decode() if key in ids else ids_as_base64(member)
        for key, member in value.items()
    }


def logs(audit: list) -> None:
    records = [
        record
        for request in parsed("/v1/logs")
        for resource in request.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]
    assert [record.body.string_value for record in records] == audit, "the collector has other lines than the file"
    print(f"logs:   {len(records)} records, those of the file")


def traces() -> None:
    spans = []
    for request in parsed("/v1/traces"):
        for resource in request.resource_spans:
            named = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
            assert named["service.name"] == "relay", named
            spans += [span for scope in resource.scope_spans for span in scope.spans]
    servers = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
    clients = [span for span in spans if span.kind == Span.SPAN_KIND_CLIENT]
    assert (len(servers), len(clients), len(spans)) == (2, 1, 3), spans
    assert all(len(span.trace_id) == 16 and len(span.span_id) == 8 for span in spans), spans
    parent = next(span for span in servers if span.span_id == clients[0].parent_span_id)
    assert parent.trace_id == clients[0].trace_id
    assert all(span.start_time_unix_nano < span.end_time_unix_nano for span in spans), spans
    codes = sorted(value.int_value for span in servers for value in [attributes(span)["http.response.status_code"]])
    assert codes == [200, 401], codes
    assert attributes(parent)["http.route"].string_value == "/github", parent
    assert all(span.status.code == Status.STATUS_CODE_UNSET for span in spans), spans
    print(f"traces: {len(spans)} spans, the vendor's beneath the app's")


def attributes(span) -> dict:
    return {attribute.key: attribute.value for attribute in span.attributes}


if __name__ == "__main__":
    sys.exit(main())
