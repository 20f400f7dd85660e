package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// prometheus is a running server that scrapes a Caddy once a second.
type prometheus struct {
	addr  string
	began time.Time
}

// startPrometheus runs a server with the project's rules, their windows shortened, until the test ends.
func startPrometheus(tb testing.TB, target string) *prometheus {
	tb.Helper()
	binary := testbed.Program(tb, "prometheus")
	dir := tb.TempDir()
	rules := filepath.Join(dir, "rules.yml")
	config := filepath.Join(dir, "prometheus.yml")
	for file, text := range map[string]string{
		rules: shorten(readText(tb, "../observability/rules.yml")),
		config: fmt.Sprintf(`global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
- job_name: caddy
  static_configs: [{targets: [%q]}]
`, rules, target),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	p := &prometheus{addr: testbed.FreeAddr(tb), began: time.Now()}
	cmd := exec.Command(binary, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+p.addr, "--log.level=warn")
	var mu sync.Mutex
	var log strings.Builder
	cmd.Stderr = writerFunc(func(b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(b)
	})
	if err := cmd.Start(); err != nil {
		tb.Fatalf("starting prometheus: %v", err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(timeout, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // however it has ended
		kill.Stop()
		mu.Lock()
		defer mu.Unlock()
		if tb.Failed() {
			tb.Logf("log of prometheus:\n%s", log.String())
		}
	})
	p.await(tb, "prometheus scrapes caddy", func() bool {
		found, err := p.ask("query", url.Values{"query": {"up"}})
		return err == nil && len(found) == 1 && found[0].Last() == 1
	})
	return p
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func readText(tb testing.TB, file string) string {
	tb.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

var (
	windows    = regexp.MustCompile(`\[(\d+[smhd](:1m)?|\$__rate_interval)\]`)
	offsets    = regexp.MustCompile(`\boffset \d+[smhd]`)
	patience   = regexp.MustCompile(`\bfor: \d+[smhd]`)
	ofVariable = regexp.MustCompile(`"\$\w+"`)
)

// shorten has an expression, or a file of rules, look at seconds where it looks at minutes, and at a minute where at
// an hour.
func shorten(text string) string {
	text = windows.ReplaceAllStringFunc(text, func(window string) string {
		switch {
		case window == "[1h:1m]":
			return "[60s:1s]"
		case strings.HasSuffix(window, "h]"):
			return "[60s]"
		case window == "[3m]":
			return "[5s]"
		}
		return "[15s]"
	})
	text = offsets.ReplaceAllString(text, "offset 15s")
	text = patience.ReplaceAllString(text, "for: 1s")
	return ofVariable.ReplaceAllString(text, `".*"`)
}

// result is one series of an answer.
type result struct {
	Metric map[string]string `json:"metric"`
	Value  [2]any            `json:"value"`
	Values [][2]any          `json:"values"`
}

func number(sample [2]any) float64 {
	text, _ := sample[1].(string)
	v, _ := strconv.ParseFloat(text, 64) // NaN is parsed
	return v
}

// Last is the value at the end.
func (r *result) Last() float64 {
	if len(r.Values) > 0 {
		return number(r.Values[len(r.Values)-1])
	}
	return number(r.Value)
}

// isData reports whether there is any number.
func (r *result) isData() bool {
	for _, sample := range r.Values {
		if v := number(sample); v == v {
			return true
		}
	}
	return false
}

func (p *prometheus) ask(what string, query url.Values) ([]result, error) {
	client := &http.Client{Timeout: timeout}
	resp, err := client.PostForm("http://"+p.addr+"/api/v1/"+what, query)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string `json:"error"`
		Data  struct {
			Result []result `json:"result"`
		} `json:"data"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Error != "" {
		return nil, fmt.Errorf("%s: %s", query.Get("query"), answer.Error)
	}
	return answer.Data.Result, nil
}

// now evaluates an expression, which is shortened.
func (p *prometheus) now(tb testing.TB, expr string) []result {
	tb.Helper()
	found, err := p.ask("query", url.Values{"query": {shorten(expr)}})
	if err != nil {
		tb.Fatal(err)
	}
	return found
}

// all evaluates an expression, which is shortened, for each second since the server runs.
func (p *prometheus) all(tb testing.TB, expr string) []result {
	tb.Helper()
	found, err := p.ask("query_range", url.Values{
		"query": {shorten(expr)},
		"start": {strconv.FormatInt(p.began.Unix(), 10)}, "end": {strconv.FormatInt(time.Now().Unix(), 10)}, "step": {"1"},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return found
}

// awaitAlert waits until an alert fires where a label has a value.
func (p *prometheus) awaitAlert(tb testing.TB, alert, label string) {
	tb.Helper()
	began := time.Now()
	p.await(tb, alert+" fires", func() bool {
		return len(p.now(tb, fmt.Sprintf(`ALERTS{alertstate="firing",alertname=%q,%s}`, alert, label))) > 0
	})
	tb.Logf("%s {%s} after %v", alert, label, time.Since(began).Round(time.Second))
}

// await is eventually for what needs some windows to pass.
func (p *prometheus) await(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(3 * timeout)
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %v: %s", 3*timeout, what)
		}
		time.Sleep(250 * time.Millisecond)
	}
}

// rules returns the expressions of the rules, as they stand in the file, and which are alerts.
func (p *prometheus) rules(tb testing.TB) (expressions map[string]string) {
	tb.Helper()
	resp, err := http.Get("http://" + p.addr + "/api/v1/rules")
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Data struct {
			Groups []struct {
				Rules []struct {
					Name, Query, LastError string
				} `json:"rules"`
			} `json:"groups"`
		} `json:"data"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		tb.Fatal(err)
	}
	expressions = make(map[string]string)
	for _, group := range answer.Data.Groups {
		for _, rule := range group.Rules {
			expressions[rule.Name] = rule.Query
			if rule.LastError != "" {
				tb.Errorf("rule %s: %s", rule.Name, rule.LastError)
			}
		}
	}
	if len(expressions) < 15 {
		tb.Errorf("only %d rules", len(expressions))
	}
	return expressions
}

// dashboardExpressions returns those of the dashboard, by the titles of panels.
func dashboardExpressions(tb testing.TB) map[string]string {
	tb.Helper()
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ RefID, Expr string }
		}
	}
	if err := json.Unmarshal([]byte(readText(tb, "../observability/dashboard.json")), &d); err != nil {
		tb.Fatal(err)
	}
	all := make(map[string]string)
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			all[p.Title+" "+target.RefID] = target.Expr
		}
	}
	if len(all) < 30 {
		tb.Fatalf("only %d expressions in the dashboard", len(all))
	}
	return all
}

// documented returns the expressions below a heading of the documentation, where the addresses of the text are
// those of this run.
func documented(tb testing.TB, heading string, addresses []string) (expressions []string) {
	tb.Helper()
	_, below, found := strings.Cut(readText(tb, "../docs/observability.md"), "\n### "+heading+"\n")
	if !found {
		tb.Fatalf("no heading %q", heading)
	}
	below, _, _ = strings.Cut(below, "\n##")
	for _, block := range regexp.MustCompile("(?ms)^```promql\n(.*?)^```$").FindAllStringSubmatch(below, -1) {
		expr := block[1]
		for i, addr := range addresses {
			expr = strings.ReplaceAll(expr, fmt.Sprintf("10.0.0.%d:9000", i+1), addr)
		}
		expressions = append(expressions, expr)
	}
	if len(expressions) == 0 {
		tb.Fatalf("no expressions below %q", heading)
	}
	return expressions
}
