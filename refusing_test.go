package websocketproxy

import (
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// countRefusals returns the counters of refused handshakes that are not zero.
func countRefusals(tb testing.TB) map[cause]int64 {
	tb.Helper()
	counts := make(map[cause]int64)
	for _, h := range process.metrics.Snapshot().Handlers {
		for why, n := range h.Refused {
			counts[cause(why)] += int64(n)
		}
	}
	return counts
}

// expectRefusal checks that while ask runs exactly one handshake is refused,
// in the log and in the counters, and returns the log line.
func (p *testProxy) expectRefusal(why cause, status int, ask func()) map[string]any {
	p.tb.Helper()
	const message = "handshake refused"
	earlier, before := p.logs.FilterMessage(message).Len(), countRefusals(p.tb)
	ask()
	eventually(p.tb, "the refusal is logged", func() bool {
		return p.logs.FilterMessage(message).Len() > earlier
	})
	lines := p.logs.FilterMessage(message).All()[earlier:]
	if len(lines) != 1 {
		p.tb.Fatalf("%d log lines, want 1: %v", len(lines), lines)
	}
	line := lines[0].ContextMap()
	expectFields(p.tb, line, map[string]any{
		"cause": string(why), "status": int64(status), "client_ip": "127.0.0.1",
	})
	if text, _ := line["error"].(string); text == "" {
		p.tb.Errorf("the log line says nothing to act on: %v", line)
	}
	for name, n := range countRefusals(p.tb) {
		want := before[name]
		if name == why {
			want++
		}
		if n != want {
			p.tb.Errorf("counter %s is %d, want %d", name, n, want)
		}
	}
	return line
}

// expectError checks that a log line's error mentions something.
func expectError(tb testing.TB, line map[string]any, text string) {
	tb.Helper()
	if got, _ := line["error"].(string); !strings.Contains(got, text) {
		tb.Errorf("the log says %q, which has no %q", got, text)
	}
}

// expectAnswer sends a request and checks what comes back for it, fields
// included: "" means that there is none of that name. The body is read.
func expectAnswer(tb testing.TB, c *testbed.Client, raw string, status int, fields map[string]string) *http.Response {
	tb.Helper()
	c.Send(raw)
	resp := c.Response()
	if resp.StatusCode != status {
		tb.Fatalf("status is %d, want %d:\n%s", resp.StatusCode, status, c.RawHead())
	}
	expectStatus(tb, resp, status, fields)
	c.Body(resp)
	return resp
}

// expectStatus checks a response, fields included as in expectAnswer.
func expectStatus(tb testing.TB, resp *http.Response, status int, fields map[string]string) {
	tb.Helper()
	if resp.StatusCode != status {
		tb.Errorf("status is %d, want %d", resp.StatusCode, status)
	}
	for name, want := range fields {
		if got := strings.Join(resp.Header.Values(name), " + "); got != want {
			tb.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// notFromNext are the fields of an answer that the next handler did not give.
func notFromNext(more map[string]string) map[string]string {
	fields := map[string]string{"Upgrade-Seen": ""}
	maps.Copy(fields, more)
	return fields
}

// expectOrdinary checks that the client's connection is one for ordinary HTTP
// requests.
func expectOrdinary(tb testing.TB, c *testbed.Client) {
	tb.Helper()
	c.Send("GET /plain HTTP/1.1\r\nHost: example.com\r\n\r\n")
	resp := c.Response()
	if body := c.Body(resp); resp.StatusCode != http.StatusOK || body != nextBody {
		tb.Errorf("the next request got %d %q, want 200 %q", resp.StatusCode, body, nextBody)
	}
}

// caddyContext returns a context for provisioning a part of the handler.
func caddyContext(tb testing.TB) caddy.Context {
	tb.Helper()
	ctx, cancel := newContext()
	tb.Cleanup(cancel)
	return ctx
}
