package dashboard

import (
	"cmp"
	"strconv"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// meaning is what a reason or a cause means, and what to do about it; empty: nothing.
type meaning struct{ words, do string }

// wordsOf is what has happened.
func wordsOf(e *Event) string {
	if m, known := closings[strconv.Itoa(e.Code)]; known && e.Kind == Ended && e.Why == string(tunnel.UpstreamClosed) {
		return m.words
	}
	m, _ := meaningOf(e.Kind, e.Why)
	return cmp.Or(m.words, e.Why)
}

func meaningOf(kind, why string) (m meaning, known bool) {
	if kind == Refused {
		m, known = causes[why]
		return m, known
	}
	m, known = reasons[why]
	return m, known
}

// Knows reports whether the page has words for a reason or a cause.
func Knows(kind, why string) bool {
	_, known := meaningOf(kind, why)
	return known
}

// causes are why handshakes are refused.
var causes = map[string]meaning{
	"not_websocket":     {"not a WebSocket handshake", "Have the proxy in front pass Upgrade and Connection on."},
	"connect":           {"CONNECT for something else", ""},
	"method":            {"not a GET", "Repair the client."},
	"malformed":         {"the handshake breaks the protocol", "See the error; look for what is between the client and Caddy."},
	"version":           {"another version of the protocol", "Update the client."},
	"origin":            {"the page's origin is not in the list", "Add it to origins, if it may connect."},
	"subprotocol":       {"none of the offered subprotocols is allowed", "Add the client's to subprotocols, if it may be spoken."},
	"bad_address":       {"placeholders made no address", "See the error, and where the placeholder gets its value."},
	"no_upstream":       {"no upstream is available", "Make ready what is drained or in maint; look at the upstreams that are down."},
	"queue_full":        {"upstreams take no more now, and the queue is full", "Add upstreams, or raise queue, and the limit that holds: max_tunnels, max_handshakes or handshake_rate."},
	"queue_timeout":     {"no upstream took the handshake in time", "Add upstreams, or raise the queue's time, and the limit that holds: max_tunnels, max_handshakes or handshake_rate."},
	"upstream_full":     {"the upstream of the client's session is full", "Raise its max_tunnels, or add upstreams for new sessions."},
	"no_expiry":         {"nothing says until when the client may stay", "Authenticate in front, or say optional."},
	"bad_expiry":        {"what says until when the client may stay is no time", "See the error; times are in seconds."},
	"client_limit":      {"the client has too many tunnels", "If it is the address of a proxy, set trusted_proxies."},
	"dial_failed":       {"the upstream could not be connected to", "Is the upstream up, and its port right?"},
	"dial_timeout":      {"connecting to the upstream took too long", "A firewall drops packets, or the upstream does not accept."},
	"tls_failed":        {"TLS with the upstream failed", "Is its certificate trusted, and does it speak TLS?"},
	"closed":            {"the upstream closed before it answered", "See its log; often it is the wrong port."},
	"bad_answer":        {"the upstream's answer is none to a handshake", "No WebSocket server there, or a cache in between."},
	"handshake_timeout": {"the upstream did not answer in time", "The upstream hangs: its threads or its database."},
	"client_gone":       {"the client left before it got an answer", "If there are many, handshakes take too long."},
	"exhausted":         {"Caddy has run out of descriptors, ports or memory", "Raise the limit that the log names."},
	"shutdown":          {"Caddy stops", "Have the load balancer take it out."},
	"upstream_refused":  {"the upstream refused", "Ask the application: path, authentication, Origin, or its own limit."},
	"internal":          {"the fault is on this side", "See the error; look at header_up, and at modules in front."},
	"expired":           {"the token has expired", "Clients have to get a new one before they connect."},
}

// reasons are why tunnels end.
var reasons = map[string]meaning{
	"client_closed":      {"the client closed", ""},
	"upstream_closed":    {"the upstream closed", ""},
	"client_reset":       {"the client's connection was reset", "Ordinary for browsers and phones; always after the same time, something in front has a timeout."},
	"upstream_reset":     {"the upstream's connection was reset", "See its log: a crash, a kill, or a proxy in front of it."},
	"client_lost":        {"the client cannot be reached any more", ""},
	"upstream_lost":      {"the upstream cannot be reached any more", "Look at its machine, or the network to it."},
	"client_error":       {"the client's connection failed", "The client, or read_timeout and write_timeout of the server."},
	"upstream_error":     {"the upstream's connection failed", "See its log."},
	"idle_timeout":       {"nothing was sent for too long", "Raise idle_timeout, or have the application ping."},
	"write_timeout":      {"a peer took nothing for too long", "If there are many, peers are slower than what they are sent."},
	"half_close_timeout": {"silence after one peer had ended", "If there are many, one peer does not close."},
	"max_lifetime":       {"it was as old as it may be", ""},
	"ping_timeout":       {"a peer did not answer a ping", "It is gone or hangs, or does not answer pings."},
	"message_too_big":    {"a message was too big", "Raise max_message_size, if such messages are meant to be."},
	"rate_limited":       {"too many messages", "Raise max_message_rate, or use delay."},
	"evicted":            {"its upstream was emptied or removed", "An operator or a reload did that; clients come back elsewhere."},
	"unhealthy":          {"its upstream failed its check", "See the checks of the upstream."},
	"rebalanced":         {"another upstream had fewer tunnels", ""},
	"killed":             {"an operator closed it", ""},
	"expired":            {"its token expired", "Clients have to renew their tokens, or connect again."},
	"shutdown":           {"Caddy stopped", ""},
}

// closings are the statuses with which upstreams end tunnels that have not come to their
// ordinary end (RFC 6455 §7.4.1, and IANA's registry of them).
var closings = map[string]meaning{
	"1002": {"the upstream closed: the protocol was broken", "See its log, and what is between the client and it."},
	"1003": {"the upstream closed: it takes no such data", "Repair the client."},
	"1007": {"the upstream closed: text was not UTF-8", "Repair the client."},
	"1008": {"the upstream closed: against its policy", "Ask the application: authentication, or its own limit."},
	"1009": {"the upstream closed: a message was too big for it", "Raise its limit, if such messages are meant to be."},
	"1010": {"the upstream closed: an extension was missing", "Repair the client."},
	"1011": {"the upstream closed: an error of its own", "See its log."},
	"1012": {"the upstream closed: it restarts", "Evict it before, so that clients are moved one after another."},
	"1013": {"the upstream closed: it has too much to do", "Add upstreams, or see what it waits for."},
	"1014": {"the upstream closed: what is behind it failed", "See its log."},
}

// isOurs reports whether a cause is a fault of the proxy or of what is behind it, and not
// the client's.
func isOurs(cause string) bool {
	switch cause {
	case "no_upstream", "queue_full", "queue_timeout", "upstream_full", "dial_failed", "dial_timeout", "tls_failed", "closed", "bad_answer",
		"handshake_timeout", "exhausted", "bad_address", "internal":
		return true
	}
	return false
}

// isLoss reports whether a reason is one that nobody has wanted, on the upstream's side.
func isLoss(reason string) bool {
	switch reason {
	case "upstream_reset", "upstream_lost", "upstream_error", "unhealthy":
		return true
	}
	return false
}

// isOrdinary reports whether a reason says nothing that anybody would ask for.
func isOrdinary(reason string) bool {
	switch reason {
	case "client_closed", "upstream_closed", "client_lost", "max_lifetime":
		return true
	}
	return false
}
