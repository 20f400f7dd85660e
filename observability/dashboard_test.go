package observability

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// dashboard is what of Grafana's JSON model is tested.
type dashboard struct {
	Title         string  `json:"title"`
	UID           string  `json:"uid"`
	SchemaVersion int     `json:"schemaVersion"`
	Panels        []panel `json:"panels"`
	Templating    struct {
		List []struct {
			Name string `json:"name"`
			Type string `json:"type"`
		} `json:"list"`
	} `json:"templating"`
}

type panel struct {
	ID         int         `json:"id"`
	Type       string      `json:"type"`
	Title      string      `json:"title"`
	Datasource *datasource `json:"datasource"`
	GridPos    struct {
		X int `json:"x"`
		Y int `json:"y"`
		W int `json:"w"`
		H int `json:"h"`
	} `json:"gridPos"`
	FieldConfig *struct {
		Defaults map[string]any `json:"defaults"`
	} `json:"fieldConfig"`
	Targets []struct {
		RefID      string      `json:"refId"`
		Expr       string      `json:"expr"`
		Datasource *datasource `json:"datasource"`
	} `json:"targets"`
}

type datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

func readDashboard(tb testing.TB) (d dashboard) {
	tb.Helper()
	text, err := os.ReadFile("dashboard.json")
	if err != nil {
		tb.Fatal(err)
	}
	if err := json.Unmarshal(text, &d); err != nil {
		tb.Fatal(err)
	}
	return d
}

func TestDashboardIsWhatGrafanaReads(t *testing.T) {
	d := readDashboard(t)
	// Grafana 11 and 12 have the schema versions from 39 on, and migrate older ones.
	if d.SchemaVersion < 39 || d.Title == "" || d.UID == "" || len(d.UID) > 40 {
		t.Errorf("schema version %d, title %q, uid %q", d.SchemaVersion, d.Title, d.UID)
	}
	var variables, rows []string
	for _, v := range d.Templating.List {
		variables = append(variables, v.Type+":"+v.Name)
	}
	if want := []string{"datasource:datasource", "query:job", "query:instance", "query:handler"}; !slices.Equal(variables, want) {
		t.Errorf("the variables are %q, want %q", variables, want)
	}
	ids, taken := make(map[int]bool), make(map[[2]int]string)
	for _, p := range d.Panels {
		if ids[p.ID] || p.ID == 0 || p.Title == "" {
			t.Errorf("panel %q has the id %d", p.Title, p.ID)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			rows = append(rows, p.Title)
		} else {
			checkPanel(t, &p)
		}
		if p.GridPos.X+p.GridPos.W > 24 || p.GridPos.W < 1 || p.GridPos.H < 1 {
			t.Errorf("panel %q does not fit: %+v", p.Title, p.GridPos)
		}
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other := taken[at]; other != "" {
					t.Fatalf("panels %q and %q overlap", p.Title, other)
				}
				taken[at] = p.Title
			}
		}
	}
	if want := []string{"Overview", "Upstreams", "Handshakes", "Ends", "Messages and slow consumers", "Storage and process"}; !slices.Equal(rows, want) {
		t.Errorf("the rows are %q, want %q", rows, want)
	}
}

func checkPanel(t *testing.T, p *panel) {
	t.Helper()
	if !slices.Contains([]string{"timeseries", "stat", "table", "heatmap"}, p.Type) {
		t.Errorf("panel %q is of the type %q", p.Title, p.Type)
	}
	if p.FieldConfig == nil || len(p.Targets) == 0 {
		t.Errorf("panel %q has no field configuration or no targets", p.Title)
	}
	refs := make(map[string]bool)
	sources := []*datasource{p.Datasource}
	for _, target := range p.Targets {
		sources = append(sources, target.Datasource)
		if refs[target.RefID] || target.RefID == "" || target.Expr == "" {
			t.Errorf("panel %q has a target %+v", p.Title, target)
		}
		refs[target.RefID] = true
	}
	for _, source := range sources {
		if source == nil || *source != (datasource{"prometheus", "${datasource}"}) {
			t.Errorf("panel %q has the data source %+v", p.Title, source)
		}
	}
}

// expressions returns those of the dashboard, by where they are.
func expressions(tb testing.TB) map[string]string {
	tb.Helper()
	all := make(map[string]string)
	for _, p := range readDashboard(tb).Panels {
		for _, target := range p.Targets {
			all[fmt.Sprintf("panel %q, %s", p.Title, target.RefID)] = target.Expr
		}
	}
	return all
}

// TestExpressionsAreValid has promtool read the dashboard's expressions as rules.
func TestExpressionsAreValid(t *testing.T) {
	tool := testbed.Program(t, "promtool")
	var rules strings.Builder
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	n := 0
	for where, expr := range expressions(t) {
		expr = strings.ReplaceAll(expr, "$__rate_interval", "1m")
		quoted, err := json.Marshal(expr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&rules, "  # %s\n  - {record: 'dashboard:expression:%d', expr: %s}\n", where, n, quoted)
		n++
	}
	file := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, "check", "rules", file, "rules.yml").CombinedOutput(); err != nil {
		t.Errorf("%v: %s\n%s", err, out, rules.String())
	}
}

var (
	metricName   = regexp.MustCompile(`\bcaddy_websocket_proxy_[a-z0-9_]+`)
	recordedName = regexp.MustCompile(`\b[a-z_]+:caddy_websocket_proxy_[a-z0-9_]+:[a-z0-9_]+`)
)

// TestMetricsAreThoseOfTheDocumentation compares what the dashboard and the rules use with the table of metrics,
// which another test compares with the code.
func TestMetricsAreThoseOfTheDocumentation(t *testing.T) {
	text, err := os.ReadFile("../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]bool) // to whether the dashboard uses it
	for _, row := range regexp.MustCompile("(?m)^\\| `(caddy_websocket_proxy_\\w+)` \\| (\\w+)").FindAllSubmatch(text, -1) {
		documented[string(row[1])] = false
	}
	rules, err := os.ReadFile("rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	recorded := make(map[string]bool)
	for _, record := range regexp.MustCompile(`(?m)- record: (\S+)$`).FindAllSubmatch(rules, -1) {
		recorded[string(record[1])] = true
	}
	use := func(where, text string) {
		for _, name := range recordedName.FindAllString(text, -1) {
			if !recorded[name] {
				t.Errorf("%s uses %s, which no rule records", where, name)
			}
		}
		for _, name := range metricName.FindAllString(recordedName.ReplaceAllString(text, ""), -1) {
			if _, is := documented[name]; !is {
				for _, suffix := range []string{"_bucket", "_count", "_sum"} {
					name = strings.TrimSuffix(name, suffix)
				}
			}
			if _, is := documented[name]; !is {
				t.Errorf("%s uses %s, which is not in the documentation", where, name)
			}
			documented[name] = true
		}
	}
	for where, expr := range expressions(t) {
		use(where, expr)
	}
	for name, used := range documented {
		if !used {
			t.Errorf("no panel shows %s", name)
		}
	}
	use("rules.yml", string(rules))
	if len(documented) < 30 || len(recorded) < 5 {
		t.Errorf("only %d metrics and %d recorded ones found", len(documented), len(recorded))
	}
}
