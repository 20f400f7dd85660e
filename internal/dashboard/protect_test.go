package dashboard

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// page is a handler as it is in force, with its log.
func page(tb testing.TB, f *fake) (*Handler, *observer.ObservedLogs) {
	tb.Helper()
	core, logs := observer.New(zap.InfoLevel)
	return &Handler{
		Actions: true, board: inUse(tb, f), logger: zap.New(core),
		hosts: map[string]bool{"status.internal": true}, front: func() front { return front{} },
	}, logs
}

// asked is a request as Caddy gives it to a handler, by an operator called alice.
func asked(method, target, body string, fields ...string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	repl := caddy.NewReplacer()
	repl.Set("http.auth.user.id", "alice")
	r = caddyhttp.PrepareRequest(r, repl, httptest.NewRecorder(), nil)
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		r.Header.Set(name, value)
	}
	return r
}

func serve(tb testing.TB, h *Handler, r *http.Request) *httptest.ResponseRecorder {
	tb.Helper()
	w := httptest.NewRecorder()
	if err := h.ServeHTTP(w, r, nil); err != nil {
		tb.Fatal(err)
	}
	return w
}

// ours is what the page sends with a change.
var ours = []string{"Content-Type: application/json", actionHeader + ": 1", "Origin: http://status.internal", "Sec-Fetch-Site: same-origin"}

const drainIt = `{"upstream":"10.0.0.1:80","state":"drain","seen":"ready","count":5}`

func TestOnlyThePageChangesSomething(t *testing.T) {
	without := func(name string) (fields []string) {
		for _, field := range ours {
			if !strings.HasPrefix(field, name) {
				fields = append(fields, field)
			}
		}
		return fields
	}
	for name, tc := range map[string]struct {
		method, target string
		fields         []string
		want           int
	}{
		"the page":               {"POST", "http://status.internal/state", ours, 200},
		"below a path":           {"POST", "http://status.internal/some/where/state", ours, 200},
		"by an address":          {"POST", "http://[::1]:8080/state", without("Origin"), 200},
		"an old browser":         {"POST", "http://status.internal/state", without("Sec-Fetch-Site"), 200},
		"of another origin":      {"POST", "http://status.internal/state", append(without("Sec"), "Sec-Fetch-Site: cross-site"), 403},
		"of a sibling":           {"POST", "http://status.internal/state", append(without("Sec"), "Sec-Fetch-Site: same-site"), 403},
		"another Origin":         {"POST", "http://status.internal/state", append(without("Sec-Fetch-Site"), "Origin: http://evil.example"), 403},
		"no origin at all":       {"POST", "http://status.internal/state", without("Origin")[:2], 403},
		"a form":                 {"POST", "http://status.internal/state", append(without("Content"), "Content-Type: application/x-www-form-urlencoded"), 415},
		"a form with JSON":       {"POST", "http://status.internal/state", append(without("Content"), "Content-Type: text/plain"), 415},
		"no type":                {"POST", "http://status.internal/state", without("Content"), 415},
		"no field":               {"POST", "http://status.internal/state", without(actionHeader), 403},
		"a name rebound":         {"POST", "http://evil.example/state", append(without("Origin"), "Origin: http://evil.example"), 403},
		"a name rebound, a look": {"GET", "http://evil.example/summary", nil, 403},
		"a GET":                  {"GET", "http://status.internal/state?state=drain&upstream=10.0.0.1:80", ours, 307},
		"a PUT":                  {"PUT", "http://status.internal/state", ours, 405},
		"elsewhere":              {"POST", "http://status.internal/summary", ours, 404},
	} {
		t.Run(name, func(t *testing.T) {
			f := one(5)
			h, _ := page(t, f)
			w := serve(t, h, asked(tc.method, tc.target, drainIt, tc.fields...))
			if w.Code != tc.want {
				t.Errorf("status %d, want %d: %s", w.Code, tc.want, w.Body)
			}
			if changed := len(f.set) > 0; changed != (tc.want == 200) {
				t.Errorf("changed: %t", changed)
			}
		})
	}
}

func TestWithoutActionsNothingChanges(t *testing.T) {
	f := one(5)
	h, _ := page(t, f)
	h.Actions = false
	if w := serve(t, h, asked("POST", "http://status.internal/state", drainIt, ours...)); w.Code != 403 || len(f.set) > 0 {
		t.Errorf("status %d, and %d changes", w.Code, len(f.set))
	}
}

func TestWhatIsServedKeepsOthersOut(t *testing.T) {
	h, _ := page(t, one(1))
	for _, target := range []string{"", "style.css", "app.js", "table.js", "icon.svg", "summary", "recent", "tunnels", "upstream", "no.such"} {
		w := serve(t, h, asked("GET", "http://127.0.0.1/"+target, ""))
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; " +
				"img-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
			"X-Content-Type-Options":       "nosniff",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Cache-Control":                "no-store",
			"Referrer-Policy":              "no-referrer",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%q has %s: %s, want %s", target, name, got, want)
			}
		}
		if strings.Contains(w.Body.String(), "innerHTML") || strings.Contains(w.Body.String(), "://") && target != "icon.svg" && target != "table.js" {
			t.Errorf("%q makes HTML, or loads something from elsewhere", target)
		}
	}
}

func TestAMissingSlashIsAdded(t *testing.T) {
	h, _ := page(t, one(0))
	for asks, want := range map[string][2]string{
		"/status":           {"", "./status/"},
		"/status?a=b":       {"", "./status/?a=b"},
		"/a/status":         {"/a/status", "./status/"},
		"//evil.example":    {"/", "./evil.example/"},
		"/javascript:alert": {"/", "./javascript:alert/"},
	} {
		r := asked("GET", "http://127.0.0.1"+asks, "")
		r.URL.Path = want[0] // as handle_path leaves it
		w := serve(t, h, r)
		if got := w.Header().Get("Location"); w.Code != 307 || got != want[1] {
			t.Errorf("%s leads to %d %s, want %s", asks, w.Code, got, want[1])
		}
	}
}

func TestSummaryHasATag(t *testing.T) {
	h, _ := page(t, one(2))
	first := serve(t, h, asked("GET", "http://127.0.0.1/summary", ""))
	again := serve(t, h, asked("GET", "http://127.0.0.1/summary", "", "If-None-Match: "+first.Header().Get("ETag")))
	if first.Code != 200 || again.Code != 304 || again.Body.Len() > 0 {
		t.Errorf("first %d, then %d with %d bytes; want 200, and 304 with none", first.Code, again.Code, again.Body.Len())
	}
	var s Summary
	if err := json.Unmarshal(first.Body.Bytes(), &s); err != nil || s.You != "alice" || !s.Actions {
		t.Errorf("%v: %+v", err, s)
	}
}

func TestAnActionIsAnsweredWhateverTheBrowserHas(t *testing.T) {
	h, _ := page(t, one(2))
	closing := func() *httptest.ResponseRecorder {
		return serve(t, h, asked("DELETE", "http://status.internal/tunnel?id=T", `{"count":1}`, append(ours, "If-None-Match: *")...))
	}
	if w := closing(); w.Code != 200 || w.Header().Get("ETag") != "" {
		t.Errorf("status %d with the tag %s, want 200 without", w.Code, w.Header().Get("ETag"))
	}
}

func TestAPageSeesThatItIsOlderThanTheServer(t *testing.T) {
	texts := make(fstest.MapFS)
	for _, of := range pageFiles {
		text, err := files.ReadFile("page/" + of.file)
		if err != nil {
			t.Fatal(err)
		}
		texts["page/"+of.file] = &fstest.MapFile{Data: text}
	}
	h, _ := page(t, one(0))
	if text := serve(t, h, asked("GET", "http://127.0.0.1/", "")).Body.String(); !strings.Contains(text, `<html lang="en" data-version="`+pageVersion+`">`) {
		t.Errorf("the page does not say that it is %s", pageVersion)
	}
	if got := New(one(0)).summary(noon).Version; got != versionOf(texts) || got != pageVersion {
		t.Errorf("the summary has version %s, want that of its files, %s", got, versionOf(texts))
	}
	for name, file := range texts {
		text := file.Data
		if file.Data = append([]byte(" "), text...); versionOf(texts) == pageVersion {
			t.Errorf("with another %s the version is the same", name)
		}
		file.Data = text
	}
}

func TestActionsAreAboutWhatWasShown(t *testing.T) {
	for name, tc := range map[string]struct {
		method, what, body string
		want               int
		says               string
	}{
		"as shown":            {"POST", "state", `{"upstream":"10.0.0.1:80","state":"evict","seen":"ready","count":100}`, 200, `"tunnels":100`},
		"fewer":               {"POST", "state", `{"upstream":"10.0.0.1:80","state":"evict","seen":"ready","count":120}`, 200, ""},
		"a few more":          {"POST", "state", `{"upstream":"10.0.0.1:80","state":"evict","seen":"ready","count":92}`, 200, ""},
		"a tenth more":        {"POST", "state", `{"upstream":"10.0.0.1:80","state":"evict","seen":"ready","count":90}`, 409, "there are 100 tunnels now, not 90"},
		"fewer than none":     {"POST", "state", `{"upstream":"10.0.0.1:80","state":"evict","seen":"ready","count":-9223372036854775808}`, 400, "count"},
		"of an empty one":     {"POST", "state", `{"upstream":"10.0.0.1:80","state":"evict","seen":"ready"}`, 409, "not 0"},
		"a drain cuts nobody": {"POST", "state", `{"upstream":"10.0.0.1:80","state":"drain","seen":"ready"}`, 200, ""},
		"nor does a maint":    {"POST", "state", `{"upstream":"10.0.0.1:80","state":"maint","seen":"ready"}`, 200, ""},
		"somebody was faster": {"POST", "state", `{"upstream":"10.0.0.2:80","state":"ready","seen":"ready"}`, 409, "its state is drain now, set by bob"},
		"it has gone":         {"POST", "state", `{"upstream":"10.0.0.9:80","state":"drain","seen":"ready"}`, 409, "no upstream"},
		"no state":            {"POST", "state", `{"upstream":"10.0.0.1:80","state":"removed","seen":"ready"}`, 400, "ready, drain, maint or evict"},
		"a long time":         {"POST", "state", `{"upstream":"10.0.0.1:80","state":"evict","seen":"ready","count":100,"period":1e9}`, 400, "up to a day"},
		"no JSON":             {"POST", "state", `state=drain`, 400, "JSON"},
		"an unknown field":    {"POST", "state", `{"upstrem":"10.0.0.1:80"}`, 400, "upstrem"},
		"too much":            {"POST", "state", `{"upstream":"` + strings.Repeat("a", longestBody) + `"}`, 400, "too large"},
		"these":               {"POST", "close", `{"search":"192.0.2.1","count":100}`, 200, `"tunnels":100`},
		"these of one":        {"POST", "close", `{"upstream":"10.0.0.1:80","count":100}`, 200, `"tunnels":100`},
		"all, by mistake":     {"POST", "close", `{"count":100}`, 400, "say all"},
		"by spaces":           {"POST", "close", `{"search":" ","count":100}`, 400, "say all"},
		"all":                 {"POST", "close", `{"all":true,"count":100}`, 200, `"tunnels":100`},
		"all, and these":      {"POST", "close", `{"all":true,"search":"192.0.2.1","count":100}`, 400, "say all"},
		"more than these":     {"POST", "close", `{"search":"192.0.2","count":50}`, 409, "there are 100 tunnels now, not 50"},
		"one":                 {"DELETE", "tunnel?id=Tx", `{"count":1}`, 200, `"tunnels":1`},
		"one that has gone":   {"DELETE", "tunnel?id=U", `{"count":1}`, 409, "no tunnel"},
	} {
		t.Run(name, func(t *testing.T) {
			f := one(100)
			f.upstreams[1].State, f.upstreams[1].By = upstream.Drain, "bob"
			h, logs := page(t, f)
			w := serve(t, h, asked(tc.method, "http://status.internal/"+tc.what, tc.body, ours...))
			if w.Code != tc.want || !strings.Contains(w.Body.String(), tc.says) {
				t.Errorf("status %d, %s; want %d, %s", w.Code, w.Body, tc.want, tc.says)
			}
			closed := 0
			for _, tunnel := range f.tunnels {
				if tunnel.closed {
					closed++
				}
			}
			acted := len(f.set) > 0 || closed > 0
			if acted != (tc.want == 200) || acted != (logs.Len() == 1) {
				t.Errorf("%d states, %d closed, %d lines", len(f.set), closed, logs.Len())
			}
			if acted && logs.All()[0].ContextMap()["by"] != "alice" {
				t.Errorf("the line has %v, want by alice", logs.All()[0].ContextMap())
			}
			if len(f.set) > 0 && f.set[0].By != "alice" {
				t.Errorf("the state is set by %q, want alice", f.set[0].By)
			}
		})
	}
}

func TestTunnelsAreSearchedAndSorted(t *testing.T) {
	f := one(150)
	f.tunnels[7].ClientIP, f.tunnels[7].BytesIn = "2001:db8::7", 1<<20
	f.tunnels[9].Labels, f.tunnels[9].BytesRate = map[string]string{"user": "Alice"}, 5
	h, _ := page(t, f)
	for query, want := range map[string]struct {
		matching int
		first    string
	}{
		"":                               {150, f.tunnels[149].ID()},
		"?sort=bytes":                    {150, f.tunnels[7].ID()},
		"?sort=id&search=10.0.0.1":       {150, "T"},
		"?search=DB8":                    {1, f.tunnels[7].ID()},
		"?search=user=alice":             {1, f.tunnels[9].ID()},
		"?sort=rate":                     {150, f.tunnels[9].ID()},
		"?upstream=10.0.0.2:80":          {0, ""},
		"?search=" + f.tunnels[140].ID(): {10, f.tunnels[149].ID()},
	} {
		var list TunnelList
		w := serve(t, h, asked("GET", "http://127.0.0.1/tunnels"+query, ""))
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil {
			t.Fatal(err)
		}
		first := ""
		if len(list.Tunnels) > 0 {
			first = list.Tunnels[0].ID
		}
		if list.Total != 150 || list.Matching != want.matching || first != want.first || len(list.Tunnels) > mostTunnels {
			t.Errorf("%q: %d of %d match, first %s; want %+v", query, list.Matching, list.Total, first, want)
		}
	}
	if w := serve(t, h, asked("GET", "http://127.0.0.1/tunnels?sort=colour", "")); w.Code != 400 {
		t.Errorf("an unknown order gets %d", w.Code)
	}
}
