package integration

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// otlpReceiver collects the spans that a Caddy sends.
type otlpReceiver struct {
	*httptest.Server

	mu    sync.Mutex
	spans []*tracepb.Span
}

// receiveOTLP starts a receiver, and returns the environment of a Caddy that sends to it.
func receiveOTLP(tb testing.TB) (*otlpReceiver, []string) {
	tb.Helper()
	o := new(otlpReceiver)
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var sent collector.ExportTraceServiceRequest
		body, err := io.ReadAll(r.Body)
		if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &sent) != nil {
			tb.Errorf("got %s with %d bytes (%v), want spans", r.URL, len(body), err)
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		for _, of := range sent.ResourceSpans {
			for _, scope := range of.ScopeSpans {
				o.spans = append(o.spans, scope.Spans...)
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	tb.Cleanup(o.Close)
	return o, sendOTLP(o.URL)
}

func sendOTLP(url string) []string {
	return []string{
		"OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT=" + url, "OTEL_BSP_SCHEDULE_DELAY=50",
	}
}

// find returns the spans with a name so far.
func (o *otlpReceiver) find(name string) (found []*tracepb.Span) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, span := range o.spans {
		if span.Name == name {
			found = append(found, span)
		}
	}
	return found
}

// wait waits for the spans with a name.
func (o *otlpReceiver) wait(tb testing.TB, n int, name string) []*tracepb.Span {
	tb.Helper()
	eventually(tb, "there are spans "+name, func() bool { return len(o.find(name)) >= n })
	return o.find(name)
}

// spanText is an attribute that is a text.
func spanText(span *tracepb.Span, key string) string {
	for _, a := range span.Attributes {
		if a.Key == key {
			return a.Value.GetStringValue()
		}
	}
	return ""
}

func expectParent(tb testing.TB, span, parent *tracepb.Span) {
	tb.Helper()
	if string(span.ParentSpanId) != string(parent.SpanId) || string(span.TraceId) != string(parent.TraceId) {
		tb.Errorf("%s is no child of %s", span.Name, parent.Name)
	}
}

// openTraced opens a tunnel whose client says of which span its request is. It returns how
// the client goes, and what the upstream has got.
func openTraced(t *testing.T, c *caddy, up *testbed.Upstream, protocol, traceparent string) (leave func(), got http.Header) {
	t.Helper()
	const path = "/ws?token=secret"
	if connect, isStream := connectors[protocol]; isStream {
		client, upstream, req := accept(t, up, connect(t, c), webSocket(path, [2]string{"traceparent", traceparent}))
		return func() { client.cancel(t); upstream.Close() }, req.Header
	}
	var upstream *testbed.Conn
	accepted := testbed.Go(t, func(tb testing.TB) {
		upstream = up.Next(tb)
		got = upstream.AcceptHandshake().Header
	})
	client := testbed.Dial(t, c.http)
	client.Handshake(path, "Traceparent: "+traceparent)
	accepted()
	return func() { client.Close(); upstream.Close() }, got
}

func TestTracesOfTunnels(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"h1", "h2", "h3"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			receiver, env := receiveOTLP(t)
			up := testbed.NewUpstream(t, nil)
			body := fmt.Sprintf("tracing\nwebsocket_proxy %s %s {\nlb_policy first\n}", testbed.RefusedAddr(t), up.Addr)
			c := startCaddy(t, site(body, streaming), env...)
			const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
			leave, got := openTraced(t, c, up, protocol, "00-"+trace+"-00f067aa0ba902b7-01")

			shake := receiver.wait(t, 1, "websocket.handshake")[0]
			dials := receiver.wait(t, 2, "websocket.dial")
			if hex.EncodeToString(shake.TraceId) != trace || spanText(shake, "url.path") != "/ws" {
				t.Errorf("the span of the handshake is %v", shake)
			}
			for _, dial := range dials {
				expectParent(t, dial, shake)
			}
			if spanText(dials[0], "error.type") != "dial_failed" || spanText(dials[1], "error.type") != "" {
				t.Errorf("the attempts are %v", dials)
			}
			want := "00-" + trace + "-" + hex.EncodeToString(dials[1].SpanId) + "-01"
			if told := got["Traceparent"]; len(told) != 1 || told[0] != want {
				t.Errorf("the upstream was told %q, want %q", told, want)
			}
			if n := len(receiver.find("websocket.tunnel")); n != 0 {
				t.Errorf("%d spans of tunnels that are open", n)
			}

			leave()
			tunnel := receiver.wait(t, 1, "websocket.tunnel")[0]
			expectParent(t, tunnel, shake)
			line := c.log.waitOne(t, message("tunnel closed"))
			if len(tunnel.Links) != 1 || spanText(tunnel, "websocket.tunnel.id") != line.str("tunnel") ||
				spanText(tunnel, "websocket.reason") != line.str("reason") {
				t.Errorf("the span of the tunnel is %v; line %v", tunnel, line)
			}
			expectParent(t, shake, receiver.wait(t, 1, "handler")[0])
		})
	}
}

func TestTracesThatNobodyReceives(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	config := site("tracing\nwebsocket_proxy " + up.Addr)
	c := startCaddy(t, config, sendOTLP("http://"+testbed.RefusedAddr(t))...)
	for range amount(200, 20) {
		client := testbed.Dial(t, c.http)
		client.Handshake("/")
		client.Echo("nobody knows")
		client.CloseHandshake(1000)
	}
	open := testbed.Dial(t, c.http)
	open.Handshake("/")
	c.reload(t, strings.ReplaceAll(config, "tracing", "")) // shuts down who makes spans
	open.Echo("still there")
	open.CloseHandshake(1000)
	c.log.wait(t, amount(201, 21), message("tunnel closed", "closed_by", "client"))
}
