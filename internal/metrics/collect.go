package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
)

// descs are of all metrics, in the order in which they were described.
var descs []*prometheus.Desc

func describe(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc(prometheus.BuildFQName("caddy", "websocket_proxy", name), help, labels, nil)
	descs = append(descs, d)
	return d
}

const (
	labelHandler  = "handler"
	labelUpstream = "upstream"
	labelPeer     = "peer"
)

// What there is. Units are seconds and bytes.
var (
	descTunnels    = describe("tunnels", "Tunnels that are open, without handshakes under way.", labelHandler, labelUpstream)
	descInProgress = describe("handshakes_in_progress", "Handshakes under way.", labelHandler)
	descOpened     = describe("tunnels_opened_total", "Tunnels opened, by the client's protocol.", labelHandler, "protocol")
	descOpenedTo   = describe("upstream_tunnels_opened_total", "Tunnels opened to an upstream.", labelHandler, labelUpstream)
	descClosed     = describe("tunnels_closed_total", "Tunnels that have ended, by reason.", labelHandler, "reason")
	descClosedTo   = describe("upstream_tunnels_closed_total", "Tunnels to an upstream that have ended, by whose doing that was.",
		labelHandler, labelUpstream, "closed_by")
	descCodes = describe("tunnel_close_codes_total", "Tunnels that have ended, by the status of the first Close frame and its sender.",
		labelHandler, "code", "from")
	descDuration  = describe("tunnel_duration_seconds", "How long tunnels that have ended were open.", labelHandler)
	descHandshake = describe("handshake_duration_seconds", "How long handshakes took, from the client's request to its answer.",
		labelHandler, "outcome")
	descAttempt = describe("upstream_handshake_duration_seconds",
		"How long handshakes at an upstream took, from dialing to the answer or the failure.", labelUpstream)
	descFailed = describe("upstream_handshakes_failed_total", "Handshakes at an upstream that have failed, by cause.",
		labelHandler, labelUpstream, "cause")
	descAbandoned = describe("upstream_handshakes_abandoned_total", "Handshakes at an upstream that were given up, by no fault of it.",
		labelHandler, labelUpstream)
	descRetries   = describe("handshake_retries_total", "Further upstreams tried by handshakes.", labelHandler)
	descKeyless   = describe("handshakes_without_key_total", "Handshakes without the key that the policy goes by.", labelHandler)
	descRefused   = describe("handshakes_refused_total", "Handshakes refused, by cause and class of the client's status.", labelHandler, "cause", "status")
	descUpstreams = describe("upstreams", "Upstreams by what holds for them, each once.", labelHandler, "status")
	descQueue     = describe("queue_length", "Handshakes that wait for a place at an upstream.", labelHandler)
	descLimit     = describe("queue_limit", "How many handshakes may wait for a place at an upstream.", labelHandler)
	descWait      = describe("queue_wait_seconds", "How long handshakes have waited for a place at an upstream, if they had to.",
		labelHandler, "outcome")
	descMessages = describe("messages_total", "Messages relayed, by direction as the client sees it.", labelHandler, labelUpstream, "direction")
	descBytes    = describe("bytes_total", "Bytes relayed after the handshake, by direction as the client sees it.",
		labelHandler, labelUpstream, "direction")
	descBuffered     = describe("buffered_bytes", "Bytes that wait here for a peer to take them.", labelHandler, labelPeer)
	descStalled      = describe("tunnels_stalled", "Tunnels in which a peer takes nothing of what waits for it.", labelHandler, labelPeer)
	descSilent       = describe("tunnels_silent", "Tunnels in which nothing has been relayed for so long.", labelHandler, "over")
	descPings        = describe("pings_total", "Pings sent to peers.", labelHandler, labelPeer)
	descPingTimeouts = describe("ping_timeouts_total", "Tunnels ended as a peer has not reacted to a ping.", labelHandler, labelPeer)
	descRTT          = describe("ping_rtt_seconds", "How long peers took to answer pings.", labelHandler, labelPeer)
	descUp           = describe("upstream_up", "Whether an upstream passes its active checks.", labelUpstream)
	descChecks       = describe("upstream_checks_total", "Active checks of an upstream, by kind and result.", labelUpstream, "kind", "result")
	descState        = describe("upstream_state", "The state that an operator has given an upstream: 1 for the one that holds.",
		labelUpstream, "state")
	descStateSet = describe("upstream_state_set_timestamp_seconds", "When an operator has set the upstream's state, in Unix time.",
		labelUpstream, "state")
	descTunnelsLimit = describe("upstream_tunnels_limit", "Most tunnels that an upstream may have, where that is limited.",
		labelHandler, labelUpstream)
	descHandshakesLimit = describe("upstream_handshakes_limit",
		"Most handshakes that may be under way at an upstream, where that is limited.", labelHandler, labelUpstream)
	descHandshakesAt = describe("upstream_handshakes_in_progress", "Handshakes under way at an upstream, where they are limited.",
		labelUpstream)
	descWeight = describe("upstream_weight", "What an upstream weighs in choices, where its agent or its reports have changed that.",
		labelHandler, labelUpstream)
	descLoad     = describe("upstream_load", "The utilisation that an upstream has reported, of which 1 is all.", labelUpstream)
	descLastSync = describe("cluster_last_sync_success_timestamp_seconds",
		"When the storage of operators' states was last read and written, in Unix time.")
	descSyncErrors    = describe("cluster_sync_errors_total", "Failures to read or write the storage of operators' states.")
	descEventsDropped = describe("events_dropped_total", "Events that were not emitted, as too many were waiting.")
	descBuildInfo     = describe("build_info", "1, by the version of the module.", "version")
)

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range descs {
		to <- d
	}
}

// Collect implements prometheus.Collector. It takes no lock.
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	now := m.clock()
	show := func(all []*series) {
		for _, s := range all {
			if s.wanted == nil || s.wanted() {
				to <- s
			}
		}
	}
	show(m.process)
	m.countRemoved()
	for _, p := range m.pairs.all {
		if !p.isOver(now) {
			show(p.series)
		}
	}
	for _, h := range m.handlers.all {
		show(h.series)
	}
	for _, u := range m.upstreams.all {
		if !u.isOver(now) {
			show(u.series)
		}
	}
}

// countRemoved counts the upstreams that no configuration has any more.
func (m *Metrics) countRemoved() {
	removed := make(map[*Handler]int64)
	for _, p := range m.pairs.all {
		if p.isRemoved() {
			removed[p.handler]++
		}
	}
	for _, h := range m.handlers.all {
		h.statuses[Removed].Store(removed[h])
	}
}
