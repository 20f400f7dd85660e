package sticky

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestOpening(t *testing.T) {
	for _, test := range []struct {
		opening Opening
		uri     string
		want    bool
	}{
		{Opening{Query: "!sid"}, "/socket.io/?EIO=4&transport=polling", true},
		{Opening{Query: "!sid"}, "/socket.io/?EIO=4&sid=1", false},
		{Opening{Query: "!sid"}, "/socket.io/?sid", false},
		{Opening{Query: "new"}, "/?new=", true},
		{Opening{Query: "new"}, "/?old=", false},
		{Opening{Path: "*/negotiate"}, "/hubs/chat/negotiate?v=1", true},
		{Opening{Path: "*/Negotiate"}, "/hubs/chat/negotiate", true},
		{Opening{Path: "*/negotiate"}, "/hubs/chat", false},
		{Opening{Path: "/a/*", Query: "!id"}, "/a/b?id=1", false},
		{Opening{Path: "/a/*", Query: "!id"}, "/a/b", true},
		{Opening{Path: "/[ab]/?"}, "/b/c", true},
		{Opening{Path: "*[*"}, "/a[b", true}, // no pattern, but a part
		{Opening{Path: "*/[new"}, "/a/[new", true},
		{Opening{Path: "{http.request.uri.query.[}"}, "/a", false},
	} {
		r := httptest.NewRequest(http.MethodGet, test.uri, http.NoBody)
		r = r.WithContext(context.WithValue(r.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer()))
		if got := test.opening.Opens(r); got != test.want {
			t.Errorf("%+v, %s: got %t", test.opening, test.uri, got)
		}
		if err := test.opening.Check(); err != nil {
			t.Errorf("%+v: %v", test.opening, err)
		}
	}
	for _, wrong := range []Opening{{}, {Query: "!"}, {Path: "/[a"}, {Path: "/a/*/[]"}, {Path: `/a\`}} {
		if wrong.Check() == nil {
			t.Errorf("%+v is taken", wrong)
		}
	}
}

func TestCredits(t *testing.T) {
	var c Credits
	a, b := Home{"chat", "a:80"}, Home{"chat", "b:80"}
	if c.Take(start, a) {
		t.Error("a credit that nobody has given")
	}
	c.Give(start, a, 5)
	c.Give(start, a, 2) // instead: what has not come back until now does not count
	got := [...]bool{c.Take(start, b), c.Take(start, a), c.Take(start, a), c.Take(start, a)}
	if got != [...]bool{false, true, true, false} {
		t.Errorf("got %v", got)
	}
	c.Give(start, a, 1)
	c.Give(start, b, 1)
	if c.Take(start.Add(creditRest), a) {
		t.Error("a credit does not end")
	}
	c.Give(start.Add(creditRest), a, 1)
	if len(c.of) != 1 {
		t.Errorf("%d credits are left, want 1", len(c.of))
	}
}
