package trace

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// Kept is what a tunnel keeps of its handshake's span, of which it makes a span when it
// has ended: one of hours would be seen by nobody while it is open. It has 25 bytes and
// who makes spans.
type Kept struct {
	trace    trace.TraceID
	span     trace.SpanID
	flags    trace.TraceFlags
	provider trace.TracerProvider
}

// Tunnel is what is told of a tunnel that has ended.
type Tunnel struct {
	ID, Upstream     string
	Reason, ClosedBy string
	Duration         time.Duration
	// CloseCode is the status of the first Close frame, and CloseFrom who sent it; zero
	// and empty without one.
	CloseCode uint16
	CloseFrom string
	// The directions are as the client sees them.
	BytesIn, BytesOut, MessagesIn, MessagesOut uint64
}

// Tunnel makes the span of a tunnel that has ended now. If a reload has shut down who
// made the handshake's span, there is none.
func (k *Kept) Tunnel(t *Tunnel) {
	if k == nil {
		return
	}
	of := trace.NewSpanContext(trace.SpanContextConfig{TraceID: k.trace, SpanID: k.span, TraceFlags: k.flags})
	attributes := append(server(t.Upstream, "tcp"),
		tunnelID(t.ID),
		attribute.String("websocket.reason", t.Reason),
		attribute.String("websocket.closed_by", t.ClosedBy),
		attribute.Float64("websocket.duration", t.Duration.Seconds()),
		count("websocket.bytes_in", t.BytesIn),
		count("websocket.bytes_out", t.BytesOut),
		count("websocket.messages_in", t.MessagesIn),
		count("websocket.messages_out", t.MessagesOut),
	)
	if t.CloseCode != 0 {
		attributes = append(attributes,
			attribute.Int("websocket.close_code", int(t.CloseCode)), attribute.String("websocket.close_from", t.CloseFrom))
	}
	now := trace.WithTimestamp(time.Now())
	_, span := k.provider.Tracer(scope).Start(trace.ContextWithSpanContext(context.Background(), of), "websocket.tunnel",
		now, trace.WithLinks(trace.Link{SpanContext: of}), trace.WithAttributes(attributes...))
	span.End(now)
}

func count(name string, n uint64) attribute.KeyValue {
	return attribute.Int64(name, int64(n))
}
