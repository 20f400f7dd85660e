// Package logline has the fields of the log lines about tunnels and handshakes. When there
// is a line, of which level, and where it goes, is for its callers to say. It has no locks.
package logline

import (
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// Opened are the fields of a tunnel that opens.
func Opened(a *tunnel.About) []zap.Field {
	fields := []zap.Field{
		zap.String("tunnel", a.ID),
		zap.String("client_ip", a.ClientIP),
		zap.String("upstream", a.Upstream),
	}
	return appendHandshake(withLabels(fields, a), a.Handler, a.Asked.Target(), &a.Course)
}

// mostFields is how many a line about a tunnel has at most.
const mostFields = 23

// Closed are the fields of a tunnel that has ended.
func Closed(o *tunnel.Outcome) []zap.Field {
	fields := append(make([]zap.Field, 0, mostFields),
		zap.String("tunnel", o.ID),
		zap.String("client_ip", o.ClientIP),
		zap.String("upstream", o.Upstream),
		zap.String("reason", string(o.Reason)),
		zap.String("closed_by", string(o.ClosedBy)),
		zap.Duration("duration", time.Since(o.Opened)),
		zap.Uint64("bytes_in", o.BytesIn),
		zap.Uint64("bytes_out", o.BytesOut),
		zap.Uint64("messages_in", o.MessagesIn),
		zap.Uint64("messages_out", o.MessagesOut),
	)
	fields = appendHandshake(withLabels(fields, &o.About), o.Handler, o.Asked.Target(), &o.Course)
	if o.EndedBy != "" {
		fields = append(fields, zap.String("evicted_by", printable.Text(o.EndedBy)))
	}
	if o.CloseCode != 0 {
		fields = append(fields, zap.Uint16("close_code", o.CloseCode), zap.String("close_from", string(o.CloseFrom)))
	}
	return fields
}

// Handshake are the fields about the handshake of a tunnel, or about one that was
// refused. What says nothing is left out.
func Handshake(handler string, t tunnel.Target, c *tunnel.Course) []zap.Field {
	return appendHandshake(make([]zap.Field, 0, 9), handler, t, c)
}

func appendHandshake(fields []zap.Field, handler string, t tunnel.Target, c *tunnel.Course) []zap.Field {
	for _, f := range [...]struct{ name, text string }{
		{"handler", handler}, {"protocol", t.Protocol}, {"host", t.Host}, {"uri", t.Path}, {"request_id", c.RequestID},
	} {
		if f.text != "" {
			fields = append(fields, zap.String(f.name, printable.Text(f.text)))
		}
	}
	for _, f := range [...]struct {
		name string
		took tunnel.Micros
	}{
		{"handshake_time", c.Took}, {"upstream_handshake_time", c.UpstreamTook}, {"queue_time", c.Queued},
	} {
		if f.took > 0 {
			fields = append(fields, zap.Duration(f.name, f.took.Duration()))
		}
	}
	if c.Retries > 0 {
		fields = append(fields, zap.Uint16("retries", c.Retries))
	}
	return fields
}

func withLabels(fields []zap.Field, a *tunnel.About) []zap.Field {
	if a.Labels == nil {
		return fields
	}
	return append(fields, zap.Object("labels", labels{a.Labels}))
}

// labels are an object, so that filters of logs reach each of them.
type labels struct{ *tunnel.Labels }

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (l labels) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	for label := range l.All() {
		enc.AddString(label.Name, label.Value)
	}
	return nil
}
