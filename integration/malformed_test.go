package integration

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// set changes a field, which is added if there is none.
func set(name, value string) func([][2]string) [][2]string {
	return func(fields [][2]string) [][2]string {
		if i := indexOf(fields, name); i >= 0 {
			fields[i][1] = value
			return fields
		}
		return append(fields, [2]string{name, value})
	}
}

func without(name string) func([][2]string) [][2]string {
	return func(fields [][2]string) [][2]string {
		return slices.DeleteFunc(fields, func(f [2]string) bool { return f[0] == name })
	}
}

func twice(name string) func([][2]string) [][2]string {
	return func(fields [][2]string) [][2]string {
		i := indexOf(fields, name)
		return slices.Insert(fields, i, fields[i])
	}
}

func late(name string) func([][2]string) [][2]string {
	return func(fields [][2]string) [][2]string {
		i := indexOf(fields, name)
		return append(slices.Delete(slices.Clone(fields), i, i+1), fields[i])
	}
}

func indexOf(fields [][2]string, name string) int {
	return slices.IndexFunc(fields, func(f [2]string) bool { return f[0] == name })
}

// What servers say of their own accord.
const (
	h2Error = "PROTOCOL_ERROR"
	h3Error = "H3_MESSAGE_ERROR"
)

// malformed are requests that are not quite good ones, and what becomes of them: a status,
// or the code of a reset, which is what the server says before the handler is asked.
var malformed = map[string]struct {
	change func(fields [][2]string) [][2]string
	h2, h3 string
}{
	"no :method":            {without(":method"), h2Error, h3Error},
	"no :protocol":          {without(":protocol"), h2Error, h3Error},
	"no :scheme":            {without(":scheme"), "200", h3Error},
	"no :authority":         {without(":authority"), "400", h3Error},
	"no :path":              {without(":path"), h2Error, h3Error},
	":method twice":         {twice(":method"), h2Error, h3Error},
	":protocol twice":       {twice(":protocol"), h2Error, h3Error},
	":scheme twice":         {twice(":scheme"), h2Error, h3Error},
	":authority twice":      {twice(":authority"), h2Error, h3Error},
	":path twice":           {twice(":path"), h2Error, h3Error},
	":method late":          {late(":method"), h2Error, h3Error},
	":protocol late":        {late(":protocol"), h2Error, h3Error},
	":path late":            {late(":path"), h2Error, h3Error},
	"an unknown one":        {func(f [][2]string) [][2]string { return slices.Insert(f, 0, [2]string{":unknown", "1"}) }, h2Error, h3Error},
	":status":               {func(f [][2]string) [][2]string { return slices.Insert(f, 0, [2]string{":status", "200"}) }, h2Error, h3Error},
	"GET with :protocol":    {set(":method", "GET"), noTunnel, h3Error},
	"connect in lower case": {set(":method", "connect"), noTunnel, h3Error},
	"protocol WebSocket":    {set(":protocol", "WebSocket"), "501", "501"},
	"protocol empty":        {set(":protocol", ""), h2Error, h3Error},
	"protocol list":         {set(":protocol", "websocket, h2c"), "501", h3Error},
	"protocol webtransport": {set(":protocol", "webtransport"), "501", "501"},
	"protocol HTTP/3.0":     {set(":protocol", "HTTP/3.0"), "501", h3Error},
	"scheme wss":            {set(":scheme", "wss"), "200", "200"},
	"scheme hostile":        {set(":scheme", "https\r\nX-Evil: 1"), h2Error, h3Error},
	"authority empty":       {set(":authority", ""), "400", h3Error},
	"authority with user":   {set(":authority", "user@example.com"), h2Error, h3Error},
	"authority with path":   {set(":authority", "example.com/evil"), h2Error, "400"},
	"authority with space":  {set(":authority", "example.com evil"), h2Error, "400"},
	"authority of lines":    {set(":authority", "example.com\r\nX-Evil: 1"), h2Error, h3Error},
	"another host":          {set("host", "evil.example"), h2Error, h3Error},
	"path empty":            {set(":path", ""), h2Error, h3Error},
	"path *":                {set(":path", "*"), "400", h3Error},
	"path without a slash":  {set(":path", "evil"), h2Error, h3Error},
	"path of a URL":         {set(":path", "http://evil.example/x"), h2Error, h3Error},
	"path of two slashes":   {set(":path", "//evil.example/x"), "200", "200"},
	"path of dots":          {set(":path", "/a/../../b"), "200", "200"},
	"path with NUL":         {set(":path", "/a\x00b"), h2Error, h3Error},
	"path of lines":         {set(":path", "/a\r\nX-Evil: 1"), h2Error, h3Error},
	"path with a space":     {set(":path", "/a b"), "200", "200"},
	"path with a fragment":  {set(":path", "/a#b"), "200", "200"},
	"path half escaped":     {set(":path", "/%"), h2Error, h3Error},
	"path with a tab":       {set(":path", "/a\tb"), h2Error, h3Error},
	"path of bytes":         {set(":path", "/\xff\xfe"), "200", "200"},
	"path of a query":       {set(":path", "?a"), h2Error, h3Error},
	"path long":             {set(":path", "/"+strings.Repeat("x", 10_000)), "200", "200"},
	"connection":            {set("connection", "upgrade"), "400", h3Error},
	"upgrade":               {set("upgrade", "websocket"), "400", h3Error},
	"transfer-encoding":     {set("transfer-encoding", "chunked"), "400", h3Error},
	"te":                    {set("te", "gzip"), "400", h3Error},
	"upper case":            {set("X-Upper", "1"), h2Error, h3Error},
	"a name with a space":   {set("x y", "1"), h2Error, h3Error},
	"a value of lines":      {set("x-y", "1\r\nX-Evil: 1"), h2Error, h3Error},
	"expect":                {set("expect", "100-continue"), "200", "200"},
}

// TestMalformedStreams has a healthy tunnel in the same connection, which no mistake in one
// request ends. What the upstream gets is a good request, which the testbed has checked.
func TestMalformedStreams(t *testing.T) {
	t.Parallel()
	c := startAttacked(t)
	for name, secure := range map[string]bool{"h2": true, "h2c": false} {
		t.Run(name, func(t *testing.T) {
			a := newH2Attacker(t, c, secure)
			neighbour := openWebSocket(t, a.open, webSocket("/"))
			for what, test := range malformed {
				s := a.begin()
				a.sendHead(s, false, test.change(goodRequest(c, secure, "/"))...)
				if got := a.outcome(t, s); got != test.h2 {
					t.Errorf("%s: the outcome is %s, want %s", what, got, test.h2)
				}
				neighbour.echo(t, what)
			}
		})
	}
	t.Run("h3", func(t *testing.T) {
		a := newH3Attacker(t, c)
		neighbour := openWebSocket(t, a.open, webSocket("/"))
		for what, test := range malformed {
			s := a.openRaw(t)
			_ = s.send(1, fieldSection(test.change(goodRequest(c, true, "/"))))
			got := s.outcome()
			if got == "200" {
				_ = s.send(0, testbed.NewFrame(testbed.Text, "is this a tunnel").Bytes(true))
				if all, _ := io.ReadAll(io.LimitReader(s, 20)); !strings.Contains(string(all), "is this a tunnel") {
					got = noTunnel
				}
			}
			if got != test.h3 {
				t.Errorf("%s: the outcome is %s, want %s", what, got, test.h3)
			}
			_ = s.Close()
			s.CancelRead(0)
			neighbour.echo(t, what)
		}
	})
}
