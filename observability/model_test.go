package observability

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

const (
	prefix = "caddy_websocket_proxy_"
	// A day is two hours and a half, as the rules look back for 100 minutes. What a script does begins after 105, at
	// the time 0 of the script.
	dayLength  = 150 * 60
	eventStart = 105 * 60
	// tick is the step of the simulation, in seconds; scrapes are multiples of it.
	tick = 5
)

var (
	backends = []string{"10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"}
	// seconds and ages are the bounds of the histograms.
	seconds = []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120}
	ages    = []float64{1, 10, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600}
	reasons = []string{
		"client_closed", "upstream_closed", "client_reset", "client_lost", "client_error", "upstream_reset", "upstream_lost",
		"upstream_error", "ping_timeout", "write_timeout", "evicted", "killed", "shutdown", "expired",
	}
	// refusals are causes with a class of their status.
	refusals = []string{
		"origin 4xx", "expired 4xx", "client_gone 499", "no_upstream 5xx", "queue_full 5xx", "queue_timeout 5xx", "dial_failed 5xx",
		"dial_timeout 5xx", "exhausted 5xx", "shutdown 5xx", "connect 5xx", "upstream_refused 4xx", "upstream_refused 5xx",
	}
	statuses = []string{"usable", "doubtful", "full", "failing", "down", "drain", "maint", "evict", "removed"}
)

// backend is what a script says of an upstream.
type backend struct {
	status  string  // of the metric upstreams
	latency float64 // of its handshakes, in seconds
	takes   bool    // new tunnels
	held    bool    // none of its tunnels ends
	// ends are tunnels a second that end there, by reason, beside those of moment.closes.
	ends map[string]float64
}

// moment is what a script says of one tick. Rates are per second.
type moment struct {
	opens       float64            // handshakes that succeed, if an upstream takes them
	short       float64            // the part of the ended tunnels that has lasted less than ten seconds
	refused     map[string]float64 // by cause and class of status
	closes      map[string]float64 // by reason, over all upstreams
	backends    [3]backend
	queue       float64
	queueWait   float64 // of those that leave the queue, one a second, if there is a queue
	syncs       bool    // the storage can be reached
	neverSynced bool
	descriptors float64
	restarted   bool // the process starts in this tick
}

// usual is an ordinary moment, with some life in it.
func usual(t float64) *moment {
	life := 1 + 0.15*math.Sin(t/210)
	m := &moment{
		opens:       2 * life,
		short:       0.03,
		refused:     map[string]float64{"origin 4xx": 0.02, "client_gone 499": 0.02},
		closes:      map[string]float64{"client_closed": 1.5 * life, "client_lost": 0.4 * life, "upstream_closed": 0.1 * life},
		syncs:       true,
		descriptors: 7000,
	}
	for i := range m.backends {
		m.backends[i] = backend{status: "usable", latency: 0.03, takes: true, ends: make(map[string]float64)}
	}
	return m
}

// simulation is one instance that is scraped.
type simulation struct {
	totals      map[string]float64   // counters now, by series
	samples     map[string][]float64 // what was scraped, by series
	tunnels     [3]float64
	lastSync    float64
	openMetrics bool // scraped as OpenMetrics, where bounds are 10.0 and not 10
}

func series(metric string, labels ...string) string {
	var b strings.Builder
	b.WriteString(metric + `{job="caddy",instance="n1:2019"`)
	for i := 0; i < len(labels); i += 2 {
		fmt.Fprintf(&b, `,%s=%q`, labels[i], labels[i+1])
	}
	return b.String() + "}"
}

func (s *simulation) count(n float64, metric string, labels ...string) {
	s.totals[series(prefix+metric, labels...)] += n
}

// observe counts n observations of a value in a histogram.
func (s *simulation) observe(n, value float64, metric string, bounds []float64, labels ...string) {
	for _, bound := range append(slices.Clone(bounds), math.Inf(1)) {
		in := n
		if value > bound {
			in = 0
		}
		s.count(in, metric+"_bucket", append(slices.Clone(labels), "le", s.bound(bound))...)
	}
	s.count(n, metric+"_count", labels...)
}

func (s *simulation) bound(v float64) string {
	if text := strconv.FormatFloat(v, 'g', -1, 64); !s.openMetrics || strings.Contains(text, ".") || math.IsInf(v, 0) {
		return text
	}
	return strconv.FormatFloat(v, 'f', 1, 64)
}

// begin makes all series of the counters, as they are there with 0 from the start.
func (s *simulation) begin() {
	s.totals = make(map[string]float64)
	for _, u := range backends {
		s.observe(0, 0, "upstream_handshake_duration_seconds", seconds, "upstream", u)
		for _, peer := range []string{"client", "upstream", "proxy"} {
			s.count(0, "upstream_tunnels_closed_total", "handler", "chat", "upstream", u, "closed_by", peer)
		}
	}
	for _, protocol := range []string{"h1", "h2", "h3"} {
		s.count(0, "tunnels_opened_total", "handler", "chat", "protocol", protocol)
	}
	for _, reason := range reasons {
		s.count(0, "tunnels_closed_total", "handler", "chat", "reason", reason)
	}
	for _, refusal := range refusals {
		s.refuse(0, refusal)
	}
	s.observe(0, 0, "tunnel_duration_seconds", ages, "handler", "chat")
	s.observe(0, 0, "queue_wait_seconds", seconds, "handler", "chat", "outcome", "served")
	s.count(0, "cluster_sync_errors_total")
}

func (s *simulation) refuse(n float64, refusal string) {
	cause, status, _ := strings.Cut(refusal, " ")
	s.count(n, "handshakes_refused_total", "handler", "chat", "cause", cause, "status", status)
}

// advance lets one tick pass.
func (s *simulation) advance(t float64, m *moment) {
	if m.restarted {
		s.begin()
		s.tunnels = [3]float64{}
	}
	takers := 0
	for _, b := range m.backends {
		if b.takes {
			takers++
		}
	}
	for i, b := range m.backends {
		if !b.takes {
			continue
		}
		n := m.opens * tick / float64(takers)
		s.tunnels[i] += n
		for protocol, part := range map[string]float64{"h1": 0.3, "h2": 0.6, "h3": 0.1} {
			s.count(n*part, "tunnels_opened_total", "handler", "chat", "protocol", protocol)
		}
		s.observe(n, b.latency, "upstream_handshake_duration_seconds", seconds, "upstream", backends[i])
	}
	s.endSome(m)
	for refusal, rate := range m.refused {
		s.refuse(rate*tick, refusal)
	}
	if m.queue > 0 {
		s.observe(tick, m.queueWait, "queue_wait_seconds", seconds, "handler", "chat", "outcome", "served")
	}
	if m.syncs {
		s.lastSync = t + eventStart
	} else {
		s.count(0.4*tick, "cluster_sync_errors_total")
	}
}

func (s *simulation) endSome(m *moment) {
	var alive []int
	for i, b := range m.backends {
		if s.tunnels[i] > 1 && !b.held {
			alive = append(alive, i)
		}
	}
	for _, i := range alive {
		for reason, rate := range m.closes {
			s.end(i, reason, rate*tick/float64(len(alive)), m.short)
		}
		for reason, rate := range m.backends[i].ends {
			s.end(i, reason, rate*tick, 0)
		}
	}
}

func (s *simulation) end(i int, reason string, n, short float64) {
	n = min(n, s.tunnels[i])
	s.tunnels[i] -= n
	by, _, _ := strings.Cut(reason, "_")
	if by != "client" && by != "upstream" {
		by = "proxy"
	}
	s.count(n, "tunnels_closed_total", "handler", "chat", "reason", reason)
	s.count(n, "upstream_tunnels_closed_total", "handler", "chat", "upstream", backends[i], "closed_by", by)
	s.observe(n*short, 5, "tunnel_duration_seconds", ages, "handler", "chat")
	s.observe(n*(1-short), 1800, "tunnel_duration_seconds", ages, "handler", "chat")
}

// scrape keeps what Prometheus would see now.
func (s *simulation) scrape(m *moment) {
	now := maps.Clone(s.totals)
	gauge := func(v float64, metric string, labels ...string) { now[series(prefix+metric, labels...)] = v }
	for _, status := range statuses {
		gauge(0, "upstreams", "handler", "chat", "status", status)
	}
	for i, b := range m.backends {
		now[series(prefix+"upstreams", "handler", "chat", "status", b.status)]++
		gauge(math.Round(s.tunnels[i]), "tunnels", "handler", "chat", "upstream", backends[i])
		for _, state := range []string{"ready", "drain", "maint", "evict"} {
			is := 0.0
			if b.status == state || state == "ready" && !slices.Contains([]string{"drain", "maint", "evict"}, b.status) {
				is = 1
			}
			gauge(is, "upstream_state", "upstream", backends[i], "state", state)
		}
	}
	gauge(m.queue, "queue_length", "handler", "chat")
	gauge(1000, "queue_limit", "handler", "chat")
	if !m.neverSynced {
		gauge(s.lastSync, "cluster_last_sync_success_timestamp_seconds")
	}
	gauge(1, "build_info", "version", "v0.9.0")
	now[series("process_open_fds")] = m.descriptors
	now[series("process_max_fds")] = 20000
	for name, v := range now {
		s.samples[name] = append(s.samples[name], v)
	}
}

// simulate runs a day that is scraped every so many seconds.
func simulate(d *day, every int, openMetrics bool) *simulation {
	s := &simulation{samples: make(map[string][]float64), openMetrics: openMetrics}
	for i := range s.tunnels {
		s.tunnels[i] = 1000
	}
	s.begin()
	for at := 0; at <= dayLength; at += tick {
		t := float64(at - eventStart)
		m := usual(t)
		if d.script != nil {
			d.script(t, m)
		}
		s.advance(t, m)
		if at%every == 0 {
			s.scrape(m)
		}
	}
	return s
}

// write writes input of `promtool test rules`, which asks at the end which alerts have fired.
func (s *simulation) write(w *bytes.Buffer, rules string, every int, fires []string) {
	// An evaluation a minute is Prometheus's default, and the coarsest that the rules have to do with.
	fmt.Fprintf(w, "rule_files: [%q]\nevaluation_interval: %ds\ntests:\n- interval: %ds\n  input_series:\n", rules, max(every, 60), every)
	for _, name := range slices.Sorted(maps.Keys(s.samples)) {
		fmt.Fprintf(w, "  - series: '%s'\n    values: '", name)
		for _, v := range s.samples[name] {
			fmt.Fprintf(w, "%s ", strconv.FormatFloat(math.Round(v*1000)/1000, 'f', -1, 64))
		}
		fmt.Fprint(w, "'\n")
	}
	fmt.Fprint(w, "  promql_expr_test:\n  - expr: 'count by (alertname) (max_over_time(ALERTS{alertstate=\"firing\"}[150m]))'\n    eval_time: 150m\n    exp_samples:\n")
	for _, alert := range fires {
		fmt.Fprintf(w, "    - {labels: '{alertname=%q}', value: 1}\n", alert)
	}
}
