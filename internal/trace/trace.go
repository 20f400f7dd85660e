// Package trace makes spans of handshakes and tunnels, where the request has a span that
// is recorded, such as that of Caddy's tracing handler. Without one all of it is nil, and
// costs nothing. Attributes are those of OpenTelemetry's conventions for HTTP, servers and
// networks, and some of our own that begin with websocket.
//
// It knows neither Caddy nor tunnels. It has no locks.
package trace

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/contrib/propagators/autoprop"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
)

// scope is whose spans these are.
const scope = "github.com/seed-58ac1b1a/caddy-websocket-proxy"

// maxText bounds, in bytes, what is told of a client's text.
const maxText = 256

// propagator is the one that Caddy uses: that of OTEL_PROPAGATORS, W3C's by default.
var propagator = sync.OnceValue(func() propagation.TextMapPropagator { return autoprop.NewTextMapPropagator() })

// Handshake is the span of a handshake. A nil one is of a request without a span.
type Handshake struct {
	ctx  context.Context
	span trace.Span
}

// Begin begins the span of a handshake, if the request has a span.
func Begin(r *http.Request) *Handshake {
	parent := trace.SpanFromContext(r.Context())
	if !parent.IsRecording() {
		return nil
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	version := strconv.Itoa(r.ProtoMajor)
	if r.ProtoMajor == 1 {
		version += "." + strconv.Itoa(r.ProtoMinor)
	}
	h := new(Handshake)
	h.ctx, h.span = parent.TracerProvider().Tracer(scope).Start(r.Context(), "websocket.handshake", trace.WithAttributes(append(
		server(r.Host, ""),
		method(r.Method),
		semconv.URLPath(printable.Cut(r.URL.EscapedPath(), maxText)),
		semconv.URLScheme(scheme),
		semconv.NetworkProtocolName("http"),
		semconv.NetworkProtocolVersion(version),
	)...))
	return h
}

// method is the attribute of a method. A client can make up others than these.
func method(name string) attribute.KeyValue {
	switch name {
	case http.MethodGet, http.MethodConnect, http.MethodPost, http.MethodHead, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodOptions, http.MethodTrace:
		return semconv.HTTPRequestMethodKey.String(name)
	}
	return semconv.HTTPRequestMethodOther
}

// server returns the attributes of an address, which may be one of a client's request.
func server(address, transport string) []attribute.KeyValue {
	if path, isUnix := strings.CutPrefix(address, "unix/"); isUnix && transport != "" {
		return []attribute.KeyValue{semconv.ServerAddress(printable.Cut(path, maxText)), semconv.NetworkTransportUnix}
	}
	var all []attribute.KeyValue
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host = strings.Trim(address, "[]")
	} else if n, err := strconv.Atoi(port); err == nil {
		all = append(all, semconv.ServerPort(n))
	}
	if transport != "" {
		all = append(all, semconv.NetworkTransportKey.String(transport))
	}
	return append(all, semconv.ServerAddress(printable.Cut(host, maxText)))
}

// Queued adds a span of the time in the queue, which has just ended. Cause is why
// there was no place, if so.
func (h *Handshake) Queued(waited time.Duration, cause string) {
	if h == nil || waited <= 0 {
		return
	}
	now := time.Now()
	_, span := h.tracer().Start(h.ctx, "websocket.queue", trace.WithTimestamp(now.Add(-waited)))
	fail(span, cause)
	span.End(trace.WithTimestamp(now))
}

func (h *Handshake) tracer() trace.Tracer { return h.span.TracerProvider().Tracer(scope) }

// Refused ends the span of a handshake that does not become a tunnel.
func (h *Handshake) Refused(cause string, status int) {
	if h == nil {
		return
	}
	h.span.SetAttributes(semconv.HTTPResponseStatusCode(status), semconv.ErrorTypeKey.String(cause))
	if status >= http.StatusInternalServerError { // others are the client's fault
		h.span.SetStatus(codes.Error, cause)
	}
	h.span.End()
}

// Opened ends the span of a handshake that becomes a tunnel, and returns what the tunnel
// keeps of it.
func (h *Handshake) Opened(status int, tunnel string) *Kept {
	if h == nil {
		return nil
	}
	h.span.SetAttributes(semconv.HTTPResponseStatusCode(status), tunnelID(tunnel))
	h.span.End()
	c := h.span.SpanContext()
	return &Kept{c.TraceID(), c.SpanID(), c.TraceFlags(), h.span.TracerProvider()}
}

func tunnelID(id string) attribute.KeyValue { return attribute.String("websocket.tunnel.id", id) }

// fail notes why something has failed, if it has.
func fail(span trace.Span, cause string) {
	if cause != "" {
		span.SetAttributes(semconv.ErrorTypeKey.String(cause))
		span.SetStatus(codes.Error, cause)
	}
}

// Attempt is the span of a handshake with one upstream.
type Attempt struct {
	ctx  context.Context
	span trace.Span
}

// Dial begins the span of an attempt, of which there were some before.
func (h *Handshake) Dial(upstream string, before int) *Attempt {
	if h == nil {
		return nil
	}
	attributes := append(server(upstream, "tcp"),
		semconv.HTTPRequestMethodGet,
		semconv.NetworkProtocolName("http"),
		semconv.NetworkProtocolVersion("1.1"),
	)
	if before > 0 {
		attributes = append(attributes, semconv.HTTPRequestResendCount(before))
	}
	a := new(Attempt)
	a.ctx, a.span = h.tracer().Start(h.ctx, "websocket.dial",
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attributes...))
	return a
}

// Inject has the upstream know of the attempt, instead of the span that Caddy has told it
// of.
func (a *Attempt) Inject(header http.Header) {
	if a != nil {
		propagator().Inject(a.ctx, propagation.HeaderCarrier(header))
	}
}

// Done ends the span: with the status of the answer, or why there is none.
func (a *Attempt) Done(status int, cause string) {
	if a == nil {
		return
	}
	if status > 0 {
		a.span.SetAttributes(semconv.HTTPResponseStatusCode(status))
	}
	fail(a.span, cause)
	a.span.End()
}
