package websocketproxy

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/evict"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/guest"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/label"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/settings"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// The defaults of the settings. Zero in the configuration means these,
// a negative value means off.
const (
	defaultHandshakeTimeout = time.Minute
	defaultIdleTimeout      = time.Hour
	defaultWriteTimeout     = time.Minute
	defaultHalfCloseTimeout = 30 * time.Second
	defaultLifetimeJitter   = 0.1

	// missedPings is how many intervals of pings make the default timeout.
	missedPings = 2

	defaultEvictPeriod    = evict.DefaultPeriod
	defaultShutdownPeriod = 4 * time.Second
)

// What is said of upstreams, balancing and health checks.
type (
	// Upstream is a backend that speaks WebSocket over HTTP/1.1.
	Upstream = settings.Upstream
	// LoadBalancing says how an upstream is chosen for a new tunnel.
	LoadBalancing = settings.LoadBalancing
	// Queue bounds the handshakes that wait for a place at an upstream.
	Queue = settings.Queue
	// HandshakeLimit is a number of handshakes, or "auto".
	HandshakeLimit = settings.HandshakeLimit
	// HandshakeRate is how many handshakes an upstream gets in a second.
	HandshakeRate = settings.HandshakeRate
	// Rebalance has tunnels moved to upstreams that have just come.
	Rebalance = settings.Rebalance
	// HealthChecks says how is found out which upstreams can be used.
	HealthChecks = settings.HealthChecks
	// ActiveHealthChecks has each upstream probed.
	ActiveHealthChecks = settings.ActiveHealthChecks
	// PassiveHealthChecks has an upstream avoided to which connections have failed.
	PassiveHealthChecks = settings.PassiveHealthChecks
)

// UnmarshalJSON implements json.Unmarshaler.
func (h *Handler) UnmarshalJSON(config []byte) error {
	type fields Handler // without this method
	return settings.Decode(config, (*fields)(h))
}

// checkConfig returns the first mistake that shows without loading modules, and without
// looking at files or the environment. It begins with the path in JSON, from which
// the Caddyfile's parser finds the option and its line: so there is one set of rules
// for both, and `caddy adapt` applies it.
func (h *Handler) checkConfig() error {
	for _, check := range []func() error{
		func() error { return settings.CheckUpstreams(h.Upstreams, h.isDynamic()) },
		h.checkSources,
		func() error { return settings.CheckBalancing(h.balancing(), h.Upstreams, h.isDynamic()) },
		func() error { return settings.CheckHealth(h.HealthChecks, h.Upstreams) },
		h.Timeouts.check,
		h.Keepalive.check,
		h.Limits.check,
		h.Drain.check,
		h.checkAccess,
		func() error { return label.Check(h.Labels) },
		h.Expiry.Check,
		h.checkHeaders,
		h.checkTrustedProxies,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// isDynamic reports whether upstreams are found by a source.
func (h *Handler) isDynamic() bool { return len(h.DynamicUpstreamsRaw) > 0 }

func (h *Handler) checkSources() error {
	if !h.isDynamic() {
		return nil
	}
	_, err := guest.SplitSources("dynamic_upstreams", h.DynamicUpstreamsRaw)
	return err
}

// balancing returns the configuration of load balancing, with or without one.
func (h *Handler) balancing() *LoadBalancing {
	return cmp.Or(h.LoadBalancing, new(LoadBalancing))
}

// Timeouts bound what a peer can keep a tunnel or its handshake waiting for.
// Those of a live tunnel are checked about once a second. When one of them
// ends a tunnel, the client is sent a Close frame with status 1001 first, if it
// is at a frame boundary.
type Timeouts struct {
	// How long one upstream may take for its part of a handshake: from dialing,
	// which also has the transport's `dial_timeout`, to the header of its answer.
	// The client gets 504 after that. Waiting in the queue and trying other
	// upstreams have times of their own, `load_balancing.queue.timeout` and
	// `load_balancing.try_duration`. A negative value means no limit. Default: 1m.
	Handshake caddy.Duration `json:"handshake,omitempty"`

	// How long a tunnel may carry no byte in either direction. Pings and pongs
	// of the peers count as traffic. A negative value means no limit.
	// Default: 1h.
	Idle caddy.Duration `json:"idle,omitempty"`

	// How long a peer may take no byte of what is waiting for it. Progress is
	// seen in steps of at most 64 KiB. On Linux, five seconds later TCP gives up
	// a peer that acknowledges nothing of what has been sent to it
	// (TCP_USER_TIMEOUT), but no sooner than four keepalive probes are lost. A negative value means no limit. Default: 1m.
	Write caddy.Duration `json:"write,omitempty"`

	// How long a tunnel may be silent after one of its peers has ended its
	// sending direction (TCP FIN or TLS close_notify) and the other has not.
	// A negative value means no limit. Default: 30s.
	HalfClose caddy.Duration `json:"half_close,omitempty"`

	// Age at which a tunnel is ended, however busy it is, so that load moves
	// to new upstreams. Default: 0, no limit.
	MaxLifetime caddy.Duration `json:"max_lifetime,omitempty"`

	// Part of `max_lifetime`, between 0 and 1, by which each tunnel's own
	// lifetime is shortened at random, so that tunnels opened together do not
	// end together. A negative value means none. Default: 0.1.
	LifetimeJitter float64 `json:"lifetime_jitter,omitempty"`
}

func (t *Timeouts) check() error {
	switch {
	case t == nil:
	case !(t.LifetimeJitter <= 1): // NaN too
		return fmt.Errorf("timeouts.lifetime_jitter: %v is more than 1", t.LifetimeJitter)
	case t.MaxLifetime <= 0 && t.LifetimeJitter != 0:
		return errors.New("timeouts.lifetime_jitter: has no effect without max_lifetime; set that too")
	}
	return nil
}

// Keepalive has a ping (RFC 6455 section 5.5.2) sent to each peer that is
// silent, so that nothing on the way forgets the connection, and so that a peer
// that is gone is noticed. Pongs to these pings are not passed on, and neither
// counts as traffic. Pings and pongs of the peers themselves are passed on; a
// peer that has yet to answer one of them is not sent another.
type Keepalive struct {
	// How long nothing may have come from a peer before it is sent a ping, and
	// how long after that the next one, with a resolution of about a second.
	// 30s suits most NATs and load balancers. A negative value means no pings.
	// Default: 0, no pings.
	PingInterval caddy.Duration `json:"ping_interval,omitempty"`

	// How long nothing may have come from a peer that has got a ping, ours or
	// the other peer's, before the tunnel is ended with status 1001. It does
	// not run while the peer takes nothing, which is what `timeouts.write` is
	// about. At least `ping_interval`, and refused without that. A negative
	// value means no limit: then pings only keep the connection known.
	// Default: twice the interval.
	PingTimeout caddy.Duration `json:"ping_timeout,omitempty"`
}

// check reports what is wrong with the ping timeout.
func (k *Keepalive) check() error {
	switch {
	case k == nil || k.PingTimeout == 0:
	case k.PingInterval <= 0:
		return errors.New("keepalive.ping_timeout: has no effect without ping_interval; set that too")
	case k.PingTimeout > 0 && k.PingTimeout < k.PingInterval:
		return errors.New("keepalive.ping_timeout: is shorter than ping_interval")
	}
	return nil
}

// Limits bound what a peer may send through a tunnel. While one is set, the
// frames of a peer are judged before they are passed on, so one that breaks the
// protocol is closed with status 1002 instead of being passed on as it is.
type Limits struct {
	// Largest message that either peer may send, in bytes of payload as they
	// are on the wire: the fragments of a message count together, and one that
	// is compressed (RFC 7692) counts with its compressed size. The sender of
	// a larger one is closed with status 1009 (RFC 6455 section 7.4.1) before
	// any of the frame that exceeds it is passed on, the other peer with 1001.
	// A negative value means no limit. Default: 0, no limit.
	MaxMessageSize int64 `json:"max_message_size,omitempty"`

	// Most messages per second that a client may send, on average, up to a
	// million, and ten times as many frames of any kind: fragments, pings and pongs
	// count there, but not the answers to this module's pings. What the upstream
	// sends does not count. A negative value means no limit. Default: 0, no limit.
	MaxMessageRate int `json:"max_message_rate,omitempty"`

	// Messages that a client may send at once after it has been silent, up to
	// a million, and ten times as many frames. Refused without `max_message_rate`.
	// Default: the messages of a second.
	MessageBurst int `json:"message_burst,omitempty"`

	// What becomes of a client that exceeds the rate: `delay` reads from it
	// only as fast as the rate allows, so that TCP slows it down; `close`
	// closes it with status 1008, and the upstream with 1001. Refused without
	// `max_message_rate`. Default: delay.
	OnMessageRate string `json:"on_message_rate,omitempty"`

	// Most tunnels and handshakes that a client may have at a time, by its
	// address as Caddy determines it, and for IPv6 by its network of 64 bits.
	// More get 429. Counted are those of this handler, and of others that have
	// the same name, or the same upstreams if they have none; after a reload,
	// those of its predecessor too if that had a limit: the handler of the same
	// name, or without one the unnamed handler that is the most like it and has
	// an upstream in common. Clients whose address is
	// not known, as behind a unix socket, are not limited. Behind another proxy,
	// the server needs its `trusted_proxies`, or that proxy is one client, and
	// `trusted_proxies_strict`, or clients choose their address where the proxy
	// adds to X-Forwarded-For. Refused with this handler's own `trusted_proxies`.
	// A negative value means no limit. Default: 0, no limit.
	MaxTunnelsPerClient int `json:"max_tunnels_per_client,omitempty"`
}

// maxRate bounds a rate, so that each message has a time, and a burst.
const maxRate = 1_000_000

// What Limits.OnMessageRate may say.
const (
	delayFast = "delay"
	closeFast = "close"
)

// check reports what is wrong with the limits.
func (l *Limits) check() error {
	switch {
	case l == nil:
	case l.MaxMessageRate > maxRate:
		return fmt.Errorf("limits.max_message_rate: %d is more than %d", l.MaxMessageRate, maxRate)
	case l.MessageBurst < 0 || l.MessageBurst > maxRate:
		return fmt.Errorf("limits.message_burst: %d is not between 1 and %d", l.MessageBurst, maxRate)
	case l.OnMessageRate != "" && l.OnMessageRate != delayFast && l.OnMessageRate != closeFast:
		return fmt.Errorf("limits.on_message_rate: %q is neither delay nor close", l.OnMessageRate)
	case l.MaxMessageRate <= 0 && l.MessageBurst != 0:
		return errors.New("limits.message_burst: has no effect without max_message_rate; set that too")
	case l.MaxMessageRate <= 0 && l.OnMessageRate != "":
		return errors.New("limits.on_message_rate: has no effect without max_message_rate; set that too")
	}
	return nil
}

// apply makes a policy of the limits.
func (l *Limits) apply(p *tunnel.Options) {
	p.MaxMessage = uint64(max(0, l.MaxMessageSize))
	if l.MaxMessageRate <= 0 {
		return
	}
	burst := l.MessageBurst
	if burst == 0 {
		burst = l.MaxMessageRate
	}
	p.MessageEvery = time.Second / time.Duration(l.MaxMessageRate)
	p.MessageAhead = time.Duration(burst-1) * p.MessageEvery
	p.RefuseFast = l.OnMessageRate == closeFast
}

// Drain says how tunnels end when the proxy ends them, so that their clients
// come back neither all at once nor to the wrong place.
type Drain struct {
	// Time over which tunnels are ended when a reload has removed their
	// upstream, or when an operator has it emptied and gives no other time. Each
	// client is sent a Close frame, at a random moment of its part of the time,
	// those of the longest idle tunnels first. A tunnel keeps the value that it
	// was opened with. A negative value means that removed upstreams keep their
	// tunnels. Default: 30s.
	EvictPeriod caddy.Duration `json:"evict_period,omitempty"`

	// Time after which nothing is left of any tunnel when the process exits.
	// The clients are sent Close frames with status 1001 in the first half of
	// it, or up to two seconds before its end if that is later. Of the tunnels
	// that are open, the longest time counts. HTTP/3 servers of which a request has
	// come to a handler are closed at the end of it too, as they would wait for
	// clients that leave their connection open. At least a second. Supervisors
	// have to wait longer than that: Caddy's systemd unit kills after 5 seconds.
	// Default: 4s.
	ShutdownPeriod caddy.Duration `json:"shutdown_period,omitempty"`

	// Status of the Close frames that ask clients to connect again, elsewhere:
	// one that RFC 6455 section 7.4 or its registry allows in a frame, or 3000
	// to 4999. 1012 says that the service restarts. Default: 1012.
	CloseCode int `json:"close_code,omitempty"`

	// Text of these Close frames, up to 123 bytes. Default: none.
	CloseReason string `json:"close_reason,omitempty"`
}

// check reports what is wrong with the values.
func (d *Drain) check() error {
	if d == nil {
		return nil
	}
	if d.ShutdownPeriod != 0 && d.ShutdownPeriod < caddy.Duration(time.Second) {
		return errors.New("drain.shutdown_period: is shorter than a second")
	}
	if d.CloseCode != 0 {
		if problem := frame.CloseCodeProblem(d.CloseCode); problem != "" {
			return fmt.Errorf("drain.close_code: %s", problem)
		}
	}
	if problem := frame.CloseReasonProblem(d.CloseReason); problem != "" {
		return fmt.Errorf("drain.close_reason: %s", problem)
	}
	return nil
}

// apply makes a policy of the values.
func (d *Drain) apply(t *tunnel.Options, p *evict.Policy) {
	t.Shutdown = settings.OrDefault(d.ShutdownPeriod, defaultShutdownPeriod)
	p.Period = settings.OrDefault(d.EvictPeriod, defaultEvictPeriod)
	p.CloseCode, p.CloseText = frame.StatusServiceRestart, d.CloseReason
	if d.CloseCode != 0 {
		p.CloseCode = uint16(d.CloseCode)
	}
}
