package trace

import (
	"context"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
	"unsafe"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// traced returns a request that has a span, and what records the spans that have ended.
func traced(t *testing.T, target string, o ...sdktrace.TracerProviderOption) (
	*http.Request, *sdktrace.TracerProvider, *tracetest.SpanRecorder,
) {
	t.Helper()
	recorder := tracetest.NewSpanRecorder()
	p := sdktrace.NewTracerProvider(append(o, sdktrace.WithSpanProcessor(recorder))...)
	r := httptest.NewRequest(http.MethodGet, target, nil)
	ctx, span := p.Tracer("test").Start(r.Context(), "handler")
	t.Cleanup(func() { span.End() })
	return r.WithContext(ctx), p, recorder
}

// only returns the only span that has ended with this name.
func only(t *testing.T, recorder *tracetest.SpanRecorder, name string) sdktrace.ReadOnlySpan {
	t.Helper()
	var found []sdktrace.ReadOnlySpan
	for _, span := range recorder.Ended() {
		if span.Name() == name {
			found = append(found, span)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d spans %s have ended, want 1", len(found), name)
	}
	return found[0]
}

func attributesOf(span sdktrace.ReadOnlySpan) map[string]any {
	all := make(map[string]any)
	for _, a := range span.Attributes() {
		all[string(a.Key)] = a.Value.AsInterface()
	}
	return all
}

func expectAttributes(t *testing.T, span sdktrace.ReadOnlySpan, want map[string]any) {
	t.Helper()
	if got := attributesOf(span); !maps.Equal(got, want) {
		t.Errorf("%s has %v, want %v", span.Name(), got, want)
	}
}

func expectChild(t *testing.T, span sdktrace.ReadOnlySpan, of trace.SpanContext) {
	t.Helper()
	if span.Parent().SpanID() != of.SpanID() || span.SpanContext().TraceID() != of.TraceID() {
		t.Errorf("%s is a child of %v, want %v", span.Name(), span.Parent(), of)
	}
}

func TestSpansOfATunnel(t *testing.T) {
	r, _, recorder := traced(t, "http://chat.example.com:8080/ws?token=secret")
	h := Begin(r)
	h.Queued(0, "")
	h.Queued(time.Minute, "")
	first := h.Dial("10.0.0.1:9000", 0)
	header := http.Header{"Traceparent": {"that of Caddy"}}
	first.Inject(header)
	first.Done(0, "dial_failed")
	second := h.Dial("unix//run/app.sock", 1)
	second.Done(101, "")
	kept := h.Opened(101, "ABC")
	began := time.Now()
	kept.Tunnel(&Tunnel{
		ID: "ABC", Upstream: "unix//run/app.sock", Reason: "client_closed", ClosedBy: "client", Duration: 90 * time.Minute,
		CloseCode: 1000, CloseFrom: "client", BytesIn: 1, BytesOut: 2, MessagesIn: 3, MessagesOut: 4,
	})

	shake := only(t, recorder, "websocket.handshake")
	expectChild(t, shake, trace.SpanContextFromContext(r.Context()))
	expectAttributes(t, shake, map[string]any{
		"http.request.method": "GET", "url.path": "/ws", "url.scheme": "http", "server.address": "chat.example.com",
		"server.port": int64(8080), "network.protocol.name": "http", "network.protocol.version": "1.1",
		"http.response.status_code": int64(101), "websocket.tunnel.id": "ABC",
	})
	queue := only(t, recorder, "websocket.queue")
	expectChild(t, queue, shake.SpanContext())
	if took := queue.EndTime().Sub(queue.StartTime()); took != time.Minute {
		t.Errorf("the queue has taken %v", took)
	}
	dials := make([]sdktrace.ReadOnlySpan, 0, 2)
	for _, span := range recorder.Ended() {
		if span.Name() == "websocket.dial" {
			dials = append(dials, span)
			expectChild(t, span, shake.SpanContext())
		}
	}
	expectAttributes(t, dials[0], map[string]any{
		"http.request.method": "GET", "server.address": "10.0.0.1", "server.port": int64(9000), "network.transport": "tcp",
		"network.protocol.name": "http", "network.protocol.version": "1.1", "error.type": "dial_failed",
	})
	if s := dials[0].Status(); s.Code != codes.Error || dials[0].SpanKind() != trace.SpanKindClient {
		t.Errorf("the attempt is %v", dials[0])
	}
	if got, want := header.Get("Traceparent"), dials[0].SpanContext().SpanID().String(); !strings.Contains(got, want) {
		t.Errorf("the upstream is told %q, want span %s", got, want)
	}
	expectAttributes(t, dials[1], map[string]any{
		"http.request.method": "GET", "server.address": "/run/app.sock", "network.transport": "unix",
		"network.protocol.name": "http", "network.protocol.version": "1.1", "http.request.resend_count": int64(1),
		"http.response.status_code": int64(101),
	})
	tunnel := only(t, recorder, "websocket.tunnel")
	expectChild(t, tunnel, shake.SpanContext())
	expectAttributes(t, tunnel, map[string]any{
		"websocket.tunnel.id": "ABC", "server.address": "/run/app.sock", "network.transport": "unix",
		"websocket.reason": "client_closed", "websocket.closed_by": "client", "websocket.duration": 5400.0,
		"websocket.bytes_in": int64(1), "websocket.bytes_out": int64(2),
		"websocket.messages_in": int64(3), "websocket.messages_out": int64(4),
		"websocket.close_code": int64(1000), "websocket.close_from": "client",
	})
	if links := tunnel.Links(); len(links) != 1 || links[0].SpanContext.SpanID() != shake.SpanContext().SpanID() {
		t.Errorf("the tunnel is linked to %v", links)
	}
	if !tunnel.StartTime().Equal(tunnel.EndTime()) || tunnel.StartTime().Before(began) {
		t.Errorf("the tunnel's span is from %v to %v", tunnel.StartTime(), tunnel.EndTime())
	}
}

func TestSpansOfRefusals(t *testing.T) {
	for status, want := range map[int]codes.Code{403: codes.Unset, 499: codes.Unset, 503: codes.Error} {
		r, _, recorder := traced(t, "http://example.com/")
		h := Begin(r)
		h.Queued(time.Second, "queue_timeout")
		h.Refused("queue_timeout", status)
		for name, want := range map[string]codes.Code{"websocket.handshake": want, "websocket.queue": codes.Error} {
			span := only(t, recorder, name)
			if span.Status().Code != want || attributesOf(span)["error.type"] != "queue_timeout" {
				t.Errorf("status %d: %s is %v with %v", status, name, span.Status(), attributesOf(span))
			}
		}
	}
}

func TestClientsTextInSpansIsShortAndValid(t *testing.T) {
	r, _, recorder := traced(t, "http://example.com/")
	r.Host, r.Method = "\xff\u009b[::1", "MADE-UP"
	r.URL.Path = "/" + strings.Repeat("\xff", 1<<20)
	Begin(r).Refused("malformed", 400)
	for name, value := range attributesOf(only(t, recorder, "websocket.handshake")) {
		if s, ok := value.(string); ok && (len(s) > maxText || !utf8.ValidString(s) || strings.Contains(s, "MADE")) {
			t.Errorf("%s is %q", name, s)
		}
	}
}

func TestWithoutASampledSpanNothingIsMade(t *testing.T) {
	plain := httptest.NewRequest(http.MethodGet, "/", nil)
	unsampled, _, recorder := traced(t, "/", sdktrace.WithSampler(sdktrace.NeverSample()))
	for _, r := range []*http.Request{plain, unsampled} {
		header := make(http.Header)
		if n := testing.AllocsPerRun(10, func() {
			h := Begin(r)
			h.Queued(time.Second, "cause")
			a := h.Dial("a.test:80", 0)
			a.Inject(header)
			a.Done(101, "")
			h.Refused("cause", 503)
			h.Opened(101, "ABC").Tunnel(nil)
		}); n != 0 || len(header) > 0 {
			t.Errorf("%v allocations, header %v", n, header)
		}
	}
	if n := len(recorder.Ended()); n != 0 {
		t.Errorf("%d spans have ended", n)
	}
}

// A reload shuts down who makes spans, if the new configuration has no tracing.
func TestATunnelOutlivesItsProvider(t *testing.T) {
	r, p, recorder := traced(t, "http://example.com/")
	kept := Begin(r).Opened(101, "ABC")
	if err := p.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	kept.Tunnel(new(Tunnel))
	if n := len(recorder.Ended()); n != 1 {
		t.Errorf("%d spans have ended, want that of the handshake", n)
	}
}

func TestWhatATunnelKeepsIsSmall(t *testing.T) {
	if got := unsafe.Sizeof(Kept{}); got > 48 {
		t.Errorf("it is %d bytes", got)
	}
}
