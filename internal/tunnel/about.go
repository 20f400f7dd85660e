package tunnel

import (
	"fmt"
	"math"
	"time"
	"unique"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/trace"
)

// About is what a tunnel is known by.
type About struct {
	// ID is the same word in logs and lists; ClientIP is the client's address as
	// its logs have it, Upstream the address of the upstream, and Handler the name
	// that the configuration gives the handler, if any.
	ID, ClientIP, Upstream, Handler string
	// Labels are what the configuration says about its client; nil means none.
	Labels *Labels

	Asked  Asked
	Course Course
}

// Target is what a client has asked for.
type Target struct {
	// Protocol is that of the client's handshake: h1, h2 or h3. Host is the Host or
	// :authority, and Path the path without a query, as in the request's URI. Both are
	// cut if they are very long.
	Protocol, Host, Path string
}

// maxTarget bounds, in bytes, a host and a path that are kept: a client can make them as
// long as a header may be, and an idle tunnel keeps them for days.
const maxTarget = 256

// Shorten is the target as it may be kept and shown.
func (t Target) Shorten() Target {
	t.Host, t.Path = shorten(t.Host), shorten(t.Path)
	return t
}

func shorten(s string) string {
	const more = "…"
	if shown := printable.Cut(s, maxTarget); len(shown) >= len(s) {
		return shown
	}
	return printable.Cut(s, maxTarget-len(more)) + more
}

// Asked is a target, kept once for all tunnels that have the same: 8 bytes for each of
// them, and nothing of the request that it was in.
type Asked struct{ target unique.Handle[Target] }

// Keep keeps a target.
func (t Target) Keep() Asked { return Asked{unique.Make(t.Shorten())} }

// Target is what was asked for.
func (a Asked) Target() Target {
	if a == (Asked{}) {
		return Target{}
	}
	return a.target.Value()
}

// Course is how a handshake has gone.
type Course struct {
	// RequestID is Caddy's id of the request, if somebody has asked for one.
	RequestID string
	// Took is from when the request has come to now that the tunnel opens, UpstreamTook
	// what the last upstream that was tried took of it, and Queued how long the
	// handshake waited for a place.
	Took, UpstreamTook, Queued Micros
	// Retries is how many upstreams were tried, but for the first.
	Retries uint16
	// Trace is what is left of the handshake's span; nil without one.
	Trace *trace.Kept
}

// NewCourse makes one of durations. The id is used if it can be written as a text.
func NewCourse(id any, took, upstreamTook, queued time.Duration, retries int) Course {
	c := Course{Took: MicrosOf(took), UpstreamTook: MicrosOf(upstreamTook), Queued: MicrosOf(queued)}
	c.Retries = uint16(min(max(0, retries), math.MaxUint16))
	if written, ok := id.(fmt.Stringer); ok {
		c.RequestID = written.String()
	}
	return c
}

// Micros is a duration in microseconds, at most 71 minutes, in half the memory of a
// [time.Duration].
type Micros uint32

// MicrosOf is a duration that is no longer, and not negative.
func MicrosOf(d time.Duration) Micros {
	return Micros(min(max(0, d.Microseconds()), math.MaxUint32))
}

// Duration is the same as a duration.
func (m Micros) Duration() time.Duration { return time.Duration(m) * time.Microsecond }

// Traced makes the span of a tunnel that has ended, if its handshake had one.
func (o *Outcome) Traced() {
	if o.Course.Trace == nil {
		return
	}
	o.Course.Trace.Tunnel(&trace.Tunnel{
		ID: o.ID, Upstream: o.Upstream, Reason: string(o.Reason), ClosedBy: string(o.ClosedBy), Duration: time.Since(o.Opened),
		CloseCode: o.CloseCode, CloseFrom: string(o.CloseFrom),
		BytesIn: o.BytesIn, BytesOut: o.BytesOut, MessagesIn: o.MessagesIn, MessagesOut: o.MessagesOut,
	})
}
