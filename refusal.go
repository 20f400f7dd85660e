package websocketproxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/conn"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/dashboard"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/dial"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/events"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/expiry"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/logline"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// A cause says why a handshake was refused. It is the same word in the log,
// in the counters and in the documentation.
type cause string

const (
	causeNotWebSocket     cause = "not_websocket"     // and require_upgrade is set
	causeConnect          cause = "connect"           // CONNECT for something else than WebSocket
	causeMethod           cause = "method"            // not a GET
	causeMalformed        cause = "malformed"         // key, version or body
	causeVersion          cause = "version"           // not 13
	causeOrigin           cause = "origin"            // not in the list
	causeSubprotocol      cause = "subprotocol"       // none of the offered ones is in the list
	causeBadAddress       cause = "bad_address"       // placeholders expanded to no address
	causeNoUpstream       cause = "no_upstream"       // none available
	causeQueueFull        cause = "queue_full"        // all upstreams are at max_tunnels, max_handshakes or handshake_rate, and too many wait
	causeQueueTimeout     cause = "queue_timeout"     // the same, and no place has become free
	causeUpstreamFull     cause = "upstream_full"     // that of the client's session
	causeExpired          cause = "expired"           // what the client has come with
	causeNoExpiry         cause = "no_expiry"         // nothing says when it expires
	causeBadExpiry        cause = "bad_expiry"        // what says that is no time
	causeClientLimit      cause = "client_limit"      // the client has too many tunnels
	causeDialFailed       cause = "dial_failed"       // refused, unreachable
	causeDialTimeout      cause = "dial_timeout"      //
	causeTLSFailed        cause = "tls_failed"        //
	causeClosed           cause = "closed"            // by the upstream before one byte of answer
	causeBadAnswer        cause = "bad_answer"        // garbage, or a 101 that is none
	causeHandshakeTimeout cause = "handshake_timeout" //
	causeClientGone       cause = "client_gone"       //
	causeShutdown         cause = "shutdown"          // the process exits
	causeExhausted        cause = "exhausted"         // no descriptor, port or memory here
	causeUpstreamRefused  cause = "upstream_refused"  // it answered something else than 101
	causeInternal         cause = "internal"          // the fault is on this side
)

// statusClientClosed is nginx's code for a client that went away before it got
// an answer, as in Caddy's own logs. It is never seen by the client.
const statusClientClosed = 499

// refusal is why a handshake does not become a tunnel, and what the client is
// told.
type refusal struct {
	cause    cause
	status   int
	err      error
	header   http.Header // for the client
	upstream string      // the last one tried
	retry    bool        // another upstream may do better
	doubtful bool        // it may be the upstream that is to blame, or the request
	lack     string      // what this side has run out of, if it has
}

func (f *refusal) Error() string { return printable.Text(f.err.Error()) }
func (f *refusal) Unwrap() error { return f.err }

// refuseHandshake makes the refusal for a client's handshake that is not accepted.
func refuseHandshake(err error, stream bool) *refusal {
	f := &refusal{cause: causeMalformed, status: http.StatusBadRequest, err: err}
	switch handshake.FaultOf(err) {
	case handshake.BadMethod:
		f.cause, f.status = causeMethod, http.StatusMethodNotAllowed
		f.header = http.Header{"Allow": {http.MethodGet}}
	case handshake.NoVersion:
		f.header = http.Header{handshake.FieldVersion: {handshake.Version}}
	case handshake.OtherVersion:
		// The client is told which one is spoken here (RFC 6455 section 4.4).
		f.cause, f.header = causeVersion, http.Header{handshake.FieldVersion: {handshake.Version}}
		if !stream {
			// 426 demands Upgrade, which HTTP/2 and 3 do not have.
			f.status = http.StatusUpgradeRequired
			f.header["Upgrade"], f.header["Connection"] = []string{"websocket"}, []string{"Upgrade"}
		}
	case handshake.BadOrigin:
		f.cause, f.status = causeOrigin, http.StatusForbidden
	case handshake.BadSubprotocol:
		f.cause = causeSubprotocol
	case handshake.Malformed:
	}
	return f
}

// refuseConnect makes the refusal for a CONNECT that is for something else. One
// for another protocol gets 501 (RFC 9220 section 3).
func refuseConnect(r *http.Request) *refusal {
	f := &refusal{
		cause:  causeConnect,
		status: http.StatusMethodNotAllowed,
		err:    errors.New("CONNECT is only served for WebSocket"),
		header: http.Header{"Allow": {http.MethodGet}},
	}
	if protocol := handshake.ConnectProtocol(r); protocol != "" {
		f.status, f.header = http.StatusNotImplemented, nil
		f.err = fmt.Errorf("extended CONNECT is only served for websocket, not for %q", protocol)
	}
	return f
}

// refuseExpiry makes the refusal for a client that has no time, as its token has expired,
// or nobody knows when it does. Only another one helps (RFC 9110 section 15.5.2).
func refuseExpiry(e *expiry.Error) *refusal {
	if e.Fault == expiry.Bad {
		return &refusal{cause: causeBadExpiry, status: http.StatusInternalServerError, err: e}
	}
	f := &refusal{cause: causeExpired, status: http.StatusUnauthorized, err: e}
	if e.Fault == expiry.Missing {
		f.cause = causeNoExpiry
	}
	f.header = http.Header{"Www-Authenticate": {e.Challenge}}
	return f
}

func refuseNoUpstream() *refusal {
	return unavailable(causeNoUpstream, errors.New("no upstream is available"))
}

// unavailable makes the refusal with 503 and a Retry-After: the client may well come
// again.
func unavailable(why cause, err error) *refusal {
	// Spread, so that clients that were turned away together do not come back
	// together.
	return unavailableFor(1+rand.IntN(10), why, err) //nolint:gosec // jitter is no secret
}

// unavailableFor is unavailable for so many seconds.
func unavailableFor(seconds int, why cause, err error) *refusal {
	return &refusal{
		cause:  why,
		status: http.StatusServiceUnavailable,
		err:    err,
		header: http.Header{"Retry-After": {strconv.Itoa(seconds)}},
	}
}

// refuseQueued makes the refusal for a handshake that has not got a place at an
// upstream by waiting. Those of a pool are told to come again one after another.
func refuseQueued(ctx context.Context, c *upstream.Candidates, err error) *refusal {
	again := func(why cause) *refusal {
		return unavailableFor(max(1, int(math.Ceil(c.RetryAfter().Seconds()))), why, err)
	}
	switch {
	case errors.Is(err, upstream.ErrQueueFull):
		return again(causeQueueFull)
	case errors.Is(err, upstream.ErrHomeFull):
		return unavailable(causeUpstreamFull, err)
	case errors.Is(err, upstream.ErrQueueTimeout):
		return again(causeQueueTimeout)
	case errors.Is(err, upstream.ErrNoneLeft):
		return unavailable(causeNoUpstream, err)
	}
	return refuseUpstream(ctx, err, "waiting for a place at an upstream", causeHandshakeTimeout, causeNoUpstream)
}

// refuseExiting makes the refusal for a handshake that comes, or has not come to
// its end, when the process exits. What balances the clients sends them elsewhere.
func refuseExiting(whileDoing string) *refusal {
	return unavailable(causeShutdown, fmt.Errorf("%s%w", whileDoing, tunnel.ErrExiting))
}

// refuseUpstream makes the refusal for a failure on the upstream's side:
// whileDoing says of what, timeout and failed are the causes to choose from.
func refuseUpstream(ctx context.Context, err error, whileDoing string, timeout, failed cause) *refusal {
	ended, why := dial.Ended(ctx)
	return refuseFailed(ended, why, err, whileDoing, timeout, failed)
}

// refuseUnanswered makes the refusal for a handshake that an upstream has not
// answered, or not as it has to.
func refuseUnanswered(err error) *refusal {
	e, ok := errors.AsType[*dial.Error](err)
	if !ok {
		return &refusal{cause: causeInternal, status: http.StatusInternalServerError, err: err}
	}
	failed := causeClosed
	switch e.Stage {
	case dial.Making: // header operations have made a Host that cannot be sent
		return &refusal{cause: causeInternal, status: http.StatusInternalServerError, err: err}
	case dial.Judging:
		return &refusal{cause: causeBadAnswer, status: http.StatusBadGateway, err: err, doubtful: true}
	case dial.Reading:
		failed = causeBadAnswer
	case dial.Sending, dial.Waiting:
	}
	f := refuseFailed(e.Ended, e.Cause, e.Err, e.Stage.String(), causeHandshakeTimeout, failed)
	f.retry = f.cause == causeClosed
	f.doubtful = f.cause == causeClosed || f.cause == causeBadAnswer || f.cause == causeHandshakeTimeout
	return f
}

// refuseFailed makes the refusal for a failure that there was when a context had, or
// had not, ended.
func refuseFailed(ended, why, err error, whileDoing string, timeout, failed cause) *refusal {
	f := &refusal{cause: failed, status: http.StatusBadGateway, err: fmt.Errorf("%s: %w", whileDoing, err)}
	switch {
	case ended != nil && errors.Is(why, tunnel.ErrExiting):
		return refuseExiting(whileDoing + ": ")
	case errors.Is(ended, context.Canceled):
		// The client has gone: each of the servers gives that another cause, so it is
		// the kind of end that tells. Times end it otherwise.
		f.cause, f.status, f.err = causeClientGone, statusClientClosed, fmt.Errorf("%s: the client has gone", whileDoing)
	case ended != nil:
		f.cause, f.status, f.err = causeHandshakeTimeout, http.StatusGatewayTimeout,
			fmt.Errorf("%s: the handshake took too long", whileDoing)
	case conn.IsTimeout(err):
		f.cause, f.status = timeout, http.StatusGatewayTimeout
	default:
		if lack := dial.Shortage(err); lack != "" {
			f = unavailable(causeExhausted, f.err)
			f.lack = lack
		}
	}
	return f
}

// shortageInterval is how often a line tells of a shortage, at most.
const shortageInterval = time.Minute

// tellShortage writes the line about something that this side has run out of, unless
// there was one lately.
func tellShortage(log *zap.Logger, lack string, err error) {
	now, told := time.Now().UnixNano(), process.toldShortage.Load()
	if now-told >= int64(shortageInterval) && process.toldShortage.CompareAndSwap(told, now) {
		log.Error("connections to upstreams fail for want of resources here: "+lack, failure(err))
	}
}

// refuse counts and logs a refusal and hands it to Caddy's error routes.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, course *account, f *refusal) error {
	h.logRefusal(r, course, f, f.status)
	disarm(r)
	if f.cause == causeClientGone {
		// For the access log; there is no one to read it.
		w.WriteHeader(statusClientClosed)
		return nil
	}
	maps.Copy(w.Header(), f.header)
	if !isDisarmed(r) {
		w.WriteHeader(f.status)
		return nil
	}
	return caddyhttp.Error(f.status, f)
}

// disarm takes from a refused request what makes a tunnel of it, as an error
// route may pass it on by reverse_proxy. Caddy gives such a route the method of
// the client's request back, and reverse_proxy would send what follows a CONNECT
// to the upstream as it comes, so that is not readable any more.
func disarm(r *http.Request) {
	handshake.Disarm(r)
	if r.ProtoMajor != 1 && wasConnect(r) && r.Body != nil {
		_ = r.Body.Close() // only its effect on reading is wanted
	}
}

// isDisarmed reports whether error routes see what disarm has done. Over HTTP/3
// they do not behind a handler that passes a copy of the request on, as tracing
// does: Proto is that of the request to which the placeholders belong.
func isDisarmed(r *http.Request) bool {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if r.ProtoMajor != 3 || !ok {
		return true
	}
	proto, _ := repl.GetString("http.request.proto")
	return proto == r.Proto
}

// wasConnect reports whether the client's request is a CONNECT, whatever handlers
// in front have made of it.
func wasConnect(r *http.Request) bool {
	original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	return r.Method == http.MethodConnect || ok && original.Method == http.MethodConnect
}

// logRefusal counts and logs the refusal of a handshake that has gone so far.
func (h *Handler) logRefusal(r *http.Request, course *account, f *refusal, status int) {
	course.counts.Refused(string(f.cause), status, course.settle())
	process.board.HandshakeRefused(dashboard.Event{
		Why: string(f.cause), Handler: h.Name, Upstream: f.upstream, ClientIP: clientIP(r), Code: status, Detail: f.Error(),
	})
	course.trace.Refused(string(f.cause), status)
	if f.cause == causeQueueFull {
		process.events.EmitRarely(time.Second, events.QueueFull, h.Name, events.Data{
			"handler": printable.Text(h.Name), "limit": h.pool.Queue.Size,
		})
	}
	level := zapcore.InfoLevel
	if status >= http.StatusInternalServerError {
		level = zapcore.WarnLevel
	}
	c := h.logger.Check(level, "handshake refused")
	if c == nil {
		return
	}
	fields := []zap.Field{
		zap.String("cause", string(f.cause)),
		zap.Int("status", status),
		zap.String("client_ip", clientIP(r)),
	}
	if f.upstream != "" {
		fields = append(fields, zap.String("upstream", f.upstream))
	}
	took := course.course(r)
	fields = append(fields, logline.Handshake(h.Name, course.target(r), &took)...)
	c.Write(append(fields, failure(f.err))...)
}

// clientIP is the client's address as Caddy determined it, by its rules for
// trusted proxies.
func clientIP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return ip
}
