package tunnel

import (
	"math"
	"time"
	"unicode/utf8"
	"unique"
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

// Target is what a client has asked for. Nothing of it is made printable.
type Target struct {
	// Protocol is that of the client's handshake: h1, h2 or h3. Host is the Host or
	// :authority, and Path the path without a query, as in the request's URI. Both are
	// cut if they are very long.
	Protocol, Host, Path string
}

// maxTarget bounds, in bytes, a host and a path that are kept: a client can make them as
// long as a header may be, and an idle tunnel keeps them for days.
const maxTarget = 256

// Shorten is the target as it may be kept.
func (t Target) Shorten() Target {
	t.Host, t.Path = shorten(t.Host), shorten(t.Path)
	return t
}

func shorten(s string) string {
	const more = "…"
	if len(s) <= maxTarget {
		return s
	}
	end := maxTarget - len(more)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + more
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
