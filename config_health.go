package websocketproxy

import "github.com/caddyserver/caddy/v2"

// HealthChecks says how is found out which upstreams can be used.
type HealthChecks struct {
	// What is learned from handshakes and tunnels.
	Passive *PassiveHealthChecks `json:"passive,omitempty"`
}

// PassiveHealthChecks has an upstream avoided at which handshakes have failed
// lately: it gets tunnels only when no other upstream can take them, so the last
// one that is available is always used.
//
// What counts as a failure is a failed dial, a connection that is closed before
// an answer, an answer that is no HTTP or no valid 101, a handshake that takes
// too long, and a tunnel that the upstream resets within a second. An answer
// with another status is the application's own, and so is a tunnel that it
// closes.
type PassiveHealthChecks struct {
	// How long a failure is remembered. A negative value means that none is.
	// Default: 10s.
	FailDuration caddy.Duration `json:"fail_duration,omitempty"`

	// How many remembered failures make an upstream be avoided, up to 1000. They
	// are counted per address, by all handlers with the same transport and the
	// same values of these two. A negative value means that it never is.
	// Default: 3.
	MaxFails int `json:"max_fails,omitempty"`
}
