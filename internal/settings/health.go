package settings

import (
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/told"
)

// The defaults of active checks. Zero in the configuration means these.
const (
	DefaultHealthInterval = 30 * time.Second
	DefaultHealthTimeout  = 5 * time.Second
	DefaultHealthPasses   = 1
	DefaultHealthFails    = 1
	DefaultHealthMaxSize  = 1 << 20
)

// HealthChecks says how is found out which upstreams can be used.
type HealthChecks struct {
	// Checks that the proxy makes by itself. Default: none.
	Active *ActiveHealthChecks `json:"active,omitempty"`

	// Agents beside upstreams that are asked. Default: none.
	Agent *told.Agent `json:"agent,omitempty"`

	// What is learned from handshakes and tunnels.
	Passive *PassiveHealthChecks `json:"passive,omitempty"`
}

// PassiveHealthChecks has upstreams avoided that handshakes fail at.
//
// One to which connections have failed lately gets tunnels only when no other upstream can
// take them, so the last one that is available is always used. What counts is what no client
// can cause: that connecting fails, or TLS, or takes longer than `dial_timeout`.
//
// What a client may have its part in says nothing alone: a connection that is closed before
// an answer, no answer in time, an answer that is no valid 101, or one of `unhealthy_status`.
// After `max_fails` of these in a row, the same handshake is asked of up to two other
// upstreams, the witnesses: the first is drawn by live tunnels of those that have not failed
// since, the second, asked when the first has failed or taken a second, at random. If one of
// them answers otherwise, the client gets that answer, and the upstream is doubtful. It gets
// newcomers only if all that are as good as it (backups or not) are doubtful, and after
// `fail_duration` one at a time tries whether it answers again. Then and until ten times
// `max_fails` handshakes in a row have succeeded, each failure has others asked. If they fail
// alike, the request is to blame and the count begins anew. Where all others are doubtful, one
// of these is asked. No answer in time is one that takes longer than ten times what is usual,
// and than 5 seconds, or 1 second when a doubtful one is tried; others are then asked while it
// is waited for, and the first answer wins. A tunnel that is reset in its first
// second, before the client has sent anything, counts where as many client networks (/32, /64)
// have seen that, and no more have not, or only one comes.
//
// Where what is said before the handshake depends on the request, by a placeholder in the
// server name or the PROXY protocol, of connections only connecting counts, and nothing does
// for addresses that depend on it.
type PassiveHealthChecks struct {
	// How long a connection's failure is remembered, and how long a doubtful upstream is left
	// alone before it is tried. A negative value turns both off.
	// Default: 10s.
	FailDuration caddy.Duration `json:"fail_duration,omitempty"`

	// How many remembered failures make an upstream be avoided, up to 1000. They
	// are counted per address, by all handlers with the same transport and the
	// same values of these two. A negative value means that it never is.
	// Default: 3.
	MaxFails int `json:"max_fails,omitempty"`

	// Statuses of answers that are failures if others answer otherwise: 400 to 599, or 4 and 5
	// for all of a class. -1 alone means none. Refused where passive checks are off.
	// Default: 502, 503 and 504.
	UnhealthyStatus []int `json:"unhealthy_status,omitempty"`

	// If true, no other upstream is asked for what one has failed to answer, as a ticket in the
	// request is good for one time. No upstream is doubtful then but for tunnels that it resets.
	// Refused where passive checks are off. Default: false.
	NoWitnesses bool `json:"no_witnesses,omitempty"`
}

// ActiveHealthChecks has each upstream probed, with the means of the transport,
// at once and then again and again. One that has failed is not available for new
// tunnels until it passes; one that has not been probed yet is available. An
// upstream that keeps changing does not make the pool restless if `fails` and
// `passes` demand several probes in a row.
//
// Handlers and configurations that ask for the same check of an address, with
// the same transport, share it and what it has found out. So a reload that
// leaves them alone changes nothing. Upstreams whose address has placeholders
// are not probed: they are known in a handshake only.
type ActiveHealthChecks struct {
	// What a probe does. `http` sends a request and judges the answer, as in
	// `reverse_proxy`. `websocket` performs a handshake, sends a ping, awaits
	// the pong with its payload, and closes with a closing handshake, which is
	// not judged. `tcp` connects, with TLS if the transport has it. It is needed
	// unless `uri` or `port` is given. Default: http.
	Kind string `json:"kind,omitempty"`

	// Path and query of the request. Refused with `tcp`. Default: /.
	URI string `json:"uri,omitempty"`

	// Address, as in `upstreams`, that is probed in place of each upstream's.
	// `{http.reverse_proxy.active.target_upstream}` in the header says which
	// upstream is meant. Default: the upstream's own.
	Upstream string `json:"upstream,omitempty"`

	// Port that is probed in place of each upstream's, up to 65535. Refused
	// with `upstream`, and for unix sockets. Default: the upstream's own.
	Port int `json:"port,omitempty"`

	// Header fields of the request, with Caddy's global placeholders, those of
	// the upstream, and `{http.reverse_proxy.active.target_upstream}`. In a
	// `websocket` check, Origin is said here, and the subprotocols to offer in
	// Sec-WebSocket-Protocol: the upstream then has to choose one. Refused with
	// `tcp`. Default: none, and the probed address as Host.
	Headers http.Header `json:"headers,omitempty"`

	// Method of the request. Refused unless the check is `http`. Default: GET.
	Method string `json:"method,omitempty"`

	// Body of the request, in which known placeholders are replaced. Refused
	// unless the check is `http`. Default: none.
	Body string `json:"body,omitempty"`

	// If true, redirects are followed, at the probed address wherever they lead
	// to. Refused unless the check is `http`. Default: false.
	FollowRedirects bool `json:"follow_redirects,omitempty"`

	// Time from the start of one probe to the start of the next; each time up
	// to a tenth is added or taken away at random, so that probes spread out.
	// At least a millisecond. Default: 30s.
	Interval caddy.Duration `json:"interval,omitempty"`

	// How long a whole probe may take, from dialing to the last byte of the
	// answer or the pong. At least a millisecond. Default: 5s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// How many probes in a row have to pass before an upstream that was down
	// gets tunnels again. Must not be negative. Default: 1.
	Passes int `json:"passes,omitempty"`

	// How many probes in a row have to fail before an upstream is down. Must
	// not be negative. Default: 1.
	Fails int `json:"fails,omitempty"`

	// Bytes of the answer's body that `expect_body` is compared with. A negative
	// value means all of it. Refused unless the check is `http`.
	// Default: 1048576.
	MaxSize int64 `json:"max_size,omitempty"`

	// Status of a good answer, such as 204, or its class: 2 for 200 to 299.
	// Refused unless the check is `http`. Default: 2.
	ExpectStatus int `json:"expect_status,omitempty"`

	// Regular expression that the body of a good answer matches. Refused unless
	// the check is `http`. Default: any body.
	ExpectBody string `json:"expect_body,omitempty"`

	// What becomes of the tunnels of an upstream that is down: `keep` leaves
	// them alone, `evict` ends those of this handler, with the status of
	// `drain.close_code`, over `drain.evict_period`, as long as the upstream is
	// down. Default: keep.
	OnUnhealthy string `json:"on_unhealthy,omitempty"`
}

// What ActiveHealthChecks.OnUnhealthy may say.
const (
	KeepUnhealthy  = "keep"
	EvictUnhealthy = "evict"
)
