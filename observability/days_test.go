package observability

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// day is something that may happen, and the alerts that have to fire on it; no other may.
type day struct {
	name string
	// script changes a moment; t is in seconds since the event begins.
	script func(t float64, m *moment)
	fires  []string
}

// between reports whether t is in a period that begins with the event.
func between(t, from, to float64) bool { return from <= t && t < to }

// ordinary are days on which operators do not want to be called.
var ordinary = []day{
	{name: "nothing happens"},
	{name: "another instance restarts", script: func(t float64, m *moment) {
		if between(t, 0, 60) {
			m.opens += 50
		}
	}},
	{name: "this instance restarts", script: func(t float64, m *moment) {
		if between(t, -10, 0) {
			m.refused["shutdown 5xx"] = 20
			for i := range m.backends {
				m.backends[i].takes, m.backends[i].ends["shutdown"] = false, 100
			}
		}
		m.restarted = t == 0
		if between(t, 0, 60) {
			m.opens += 45
		}
	}},
	{name: "deploy that evicts", script: func(t float64, m *moment) {
		rolling(t, 300, func(i int, age float64) {
			b := &m.backends[i]
			switch {
			case age < 60:
				b.status, b.takes, b.ends["evicted"] = "evict", false, 25
				m.opens += 25
			case age < 150:
				b.status, b.takes = "evict", false
			case age < 240:
				b.latency = 1 // with cold caches
			}
		})
	}},
	{name: "deploy whose application sends 1001", script: func(t float64, m *moment) {
		rolling(t, 300, func(i int, age float64) { restarts(m, i, age, "upstream_closed") })
	}},
	{name: "deploy that kills the application", script: func(t float64, m *moment) {
		rolling(t, 300, func(i int, age float64) { restarts(m, i, age, "upstream_reset") })
	}, fires: []string{"WebSocketTunnelsCut"}},
	{name: "drain over night", script: func(t float64, m *moment) {
		if t >= 0 {
			b := &m.backends[1]
			b.status, b.takes, b.held = "drain", false, true
		}
	}},
	{name: "eviction with one tunnel every five minutes", script: func(t float64, m *moment) {
		if t >= 0 {
			b := &m.backends[1]
			b.status, b.takes, b.held = "evict", false, int(t)%300 != 0
			m.closes = nil
			b.ends["evicted"] = 1.0 / tick
		}
	}},
	{name: "bot without a token", script: func(t float64, m *moment) {
		if t >= 0 {
			m.refused = map[string]float64{"origin 4xx": 5, "upstream_refused 4xx": 5, "connect 5xx": 2, "upstream_refused 5xx": 5}
		}
	}},
	{name: "morning rush", script: func(t float64, m *moment) {
		if t >= 0 {
			m.opens *= 1 + 2*min(1, t/1200)
			for reason := range m.closes {
				m.closes[reason] *= 1 + 1.8*min(1, t/1200)
			}
		}
	}},
	{name: "morning after a night without anybody", script: func(t float64, m *moment) {
		if t < 0 {
			m.opens, m.closes = 0, nil
		} else {
			m.opens *= 4
		}
	}},
	{name: "tokens expire together", script: func(t float64, m *moment) {
		if between(t, 0, 60) {
			m.opens += 45
			for i := range m.backends {
				m.backends[i].ends["expired"] = 15
			}
		}
	}},
	{name: "an operator closes each tunnel of a client that floods", script: func(t float64, m *moment) {
		if between(t, 0, 900) {
			m.opens, m.short = 30, 0.9
			m.closes["killed"] = 28
		}
	}},
	{name: "one failed sync", script: func(t float64, m *moment) { m.syncs = !between(t, 0, 20) }},
	{name: "a reload gives the handler another name", script: func(t float64, m *moment) {
		if t < 0 {
			return
		}
		m.opens, m.closes = 0, nil
		for i := range m.backends {
			b := &m.backends[i]
			b.status, b.takes = "removed", false
			b.ends["evicted"] = 30
		}
	}},
	{name: "tunnels that are short by nature", script: func(t float64, m *moment) {
		for i := range m.backends {
			if t < -6000 {
				m.backends[i].ends["client_closed"] = 10
			}
		}
		m.opens, m.short = 20, 0.9
		m.closes = map[string]float64{"client_closed": 17, "client_lost": 2, "client_error": 1}
	}},
	{name: "busy at the cap, with short waits", script: func(t float64, m *moment) {
		if t >= 0 {
			m.queue, m.queueWait = 20, 0.04
			for i := range m.backends {
				m.backends[i].status = "full"
			}
		}
	}},
}

// incidents are days on which somebody has to do something.
var incidents = []day{
	{name: "all upstreams die", script: func(t float64, m *moment) {
		if between(t, 0, 1200) {
			for i := range m.backends {
				b := &m.backends[i]
				b.status, b.takes = "down", false
				if t < 30 {
					b.ends["upstream_reset"] = 100
				}
			}
			m.refused["no_upstream 5xx"], m.refused["dial_failed 5xx"] = 20, 2
		}
	}, fires: []string{"WebSocketHandshakesFail", "WebSocketNoUpstream", "WebSocketReconnectStorm", "WebSocketTunnelsCut"}},
	{name: "one upstream is lost", script: func(t float64, m *moment) {
		b := &m.backends[2]
		if between(t, 0, 1800) {
			b.takes = false
			if t >= 20 {
				b.status = "down"
			}
			if between(t, 60, 90) {
				b.ends["upstream_lost"] = 100
				m.opens += 33
			}
		}
	}, fires: []string{"WebSocketTunnelsCut"}},
	{name: "slow upstream", script: func(t float64, m *moment) {
		if between(t, 0, 2400) {
			m.backends[1].latency = 2
		}
	}, fires: []string{"WebSocketUpstreamSlow"}},
	{name: "slow upstream after an hour without handshakes", script: func(t float64, m *moment) {
		if between(t, -4200, -600) {
			m.opens, m.closes = 0, nil
		}
		if between(t, 0, 2400) {
			m.backends[1].latency = 2
		}
	}, fires: []string{"WebSocketUpstreamSlow"}},
	{name: "the application closes each tunnel after two seconds", script: func(t float64, m *moment) {
		if between(t, 0, 900) {
			m.opens, m.short = 60, 0.95
			m.closes = map[string]float64{"upstream_closed": 58, "client_lost": 0.4}
		}
	}, fires: []string{"WebSocketReconnectStorm"}},
	{name: "clients storm a full queue", script: func(t float64, m *moment) {
		if between(t, 0, 900) {
			m.queue, m.queueWait = 1000, 4
			m.refused["queue_full 5xx"], m.refused["queue_timeout 5xx"] = 60, 4
		}
	}, fires: []string{"WebSocketHandshakesFail", "WebSocketQueueGrows", "WebSocketReconnectStorm"}},
	{name: "all upstreams are full, and the queue is patient", script: func(t float64, m *moment) {
		if between(t, 0, 900) {
			m.queue, m.queueWait, m.opens = min(900, t), 100, 1.5
			for i := range m.backends {
				m.backends[i].status = "full"
			}
		}
	}, fires: []string{"WebSocketQueueGrows"}},
	{name: "all upstreams are full, and the queue is not patient", script: func(t float64, m *moment) {
		if between(t, 0, 900) {
			m.queue, m.queueWait, m.opens = 10, 4, 0.5
			m.refused["queue_timeout 5xx"] = 1.5
			for i := range m.backends {
				m.backends[i].status = "full"
			}
		}
	}, fires: []string{"WebSocketHandshakesFail", "WebSocketQueueGrows"}},
	{name: "the application answers 500", script: func(t float64, m *moment) {
		if between(t, 0, 1200) {
			m.opens, m.refused["upstream_refused 5xx"] = 0.05, 20
		}
	}, fires: []string{"WebSocketHandshakesFail"}},
	{name: "an eviction hangs", script: func(t float64, m *moment) {
		if t >= 0 {
			b := &m.backends[1]
			b.status, b.takes, b.held = "evict", false, true
		}
	}, fires: []string{"WebSocketEvictionStuck"}},
	{name: "storage out of reach", script: func(t float64, m *moment) {
		m.syncs = !between(t, 0, 600)
	}, fires: []string{"WebSocketStorageOutOfReach"}},
	{name: "storage out of reach from the start", script: func(t float64, m *moment) {
		m.syncs, m.neverSynced = false, true
	}, fires: []string{"WebSocketStorageOutOfReach"}},
	{name: "descriptors run out", script: func(t float64, m *moment) {
		if t >= 0 {
			m.descriptors = min(20000, 7000+t*12)
		}
		if t >= 1200 {
			m.refused["exhausted 5xx"] = 1
		}
	}, fires: []string{"WebSocketDescriptors", "WebSocketHandshakesFail"}},
}

// rolling calls f for each upstream in its turn, with the seconds since that began.
func rolling(t, period float64, f func(i int, age float64)) {
	for i := range backends {
		if age := t - float64(i)*period; between(age, 0, period) {
			f(i, age)
		}
	}
}

// restarts has an upstream end all its tunnels and come back after a minute.
func restarts(m *moment, i int, age float64, reason string) {
	b := &m.backends[i]
	if age < 30 {
		b.ends[reason] = 100
		m.opens += 33
	}
	if age < 60 {
		b.status, b.takes = "down", false
	}
}

// TestDays has promtool run the rules over each day on which alerts fire, and if LONG is set
// over all days, in other ways of scraping too.
func TestDays(t *testing.T) {
	tool := testbed.Program(t, "promtool")
	// Read here, so that the go command knows what the results depend on.
	text, err := os.ReadFile("rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	rules := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(rules, text, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(d *day, name string, every int, openMetrics bool) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var input bytes.Buffer
			simulate(d, every, openMetrics).write(&input, rules, every, d.fires)
			file := filepath.Join(t.TempDir(), "day.yml")
			if err := os.WriteFile(file, input.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(tool, "test", "rules", file).CombinedOutput(); err != nil {
				t.Errorf("these alerts have to fire: %q\n%s", d.fires, out)
			}
		})
	}
	if os.Getenv("LONG") == "" {
		for _, d := range incidents {
			run(&d, d.name, 60, true)
		}
		return
	}
	for _, d := range slices.Concat(ordinary, incidents) {
		run(&d, d.name, 60, true)
		run(&d, d.name+", scraped every 15 s", 15, true)
		if slices.Contains(d.fires, "WebSocketReconnectStorm") || d.name == "deploy that evicts" {
			run(&d, d.name+", in the text format", 60, false)
		}
	}
}

func TestEveryAlertHasItsDayAndItsRunbook(t *testing.T) {
	text, err := os.ReadFile("rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	fire := make(map[string]bool)
	for _, d := range incidents {
		for _, alert := range d.fires {
			fire[alert] = true
		}
		if len(d.fires) == 0 {
			t.Errorf("no alert fires on the day %q", d.name)
		}
	}
	alerts := regexp.MustCompile(`(?s)- alert: (\w+)\n(.*?)\n\n`).FindAllSubmatch(append(text, '\n'), -1)
	for _, alert := range alerts {
		if !fire[string(alert[1])] {
			t.Errorf("%s fires on no day", alert[1])
		}
		for _, part := range []string{"severity: ", "summary: ", "runbook: "} {
			if !bytes.Contains(alert[2], []byte(part)) {
				t.Errorf("%s has no %q", alert[1], part)
			}
		}
	}
	if len(alerts) != len(fire) {
		t.Errorf("%d alerts in rules.yml, %d in the days", len(alerts), len(fire))
	}
	if len(ordinary) < 11 || len(incidents) < 9 {
		t.Errorf("only %d ordinary days and %d incidents", len(ordinary), len(incidents))
	}
}
