package sticky

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

func TestParse(t *testing.T) {
	for _, test := range []struct{ config, want string }{
		{`{"policy":"cookie"}`, `cookie lb 0s {"policy":"least_conn"}`},
		{`{"policy":"cookie","fallback":null}`, `cookie lb 0s {"policy":"least_conn"}`},
		{
			`{"policy":"cookie","name":"a","max_age":"1m","fallback":{"policy":"random_choose","choose":3}}`,
			`cookie a 1m0s {"policy":"random_choose","choose":3}`,
		},
		{`{"policy":"header","field":"x-room"}`, `header X-Room 0s {"policy":"least_conn"}`},
		{`{"policy":"query","key":"room","fallback":{"policy":"first"}}`, `query room 0s {"policy":"first"}`},
		{`{"policy":"ip_hash"}`, `ip_hash  0s {"policy":"least_conn"}`},

		{`{"policy":"cookie","name":"a b"}`, `name: "a b" cannot be the name of a cookie; use letters, digits, - and _`},
		{`{"policy":"cookie","max_age":-1}`, `max_age: must not be negative; leave it out for a cookie without an age`},
		{`{"policy":"cookie","field":"a"}`, `json: unknown field "field"`},
		{`{"policy":"header"}`, `field: is empty; name the header field whose value tells clients apart`},
		{`{"policy":"query"}`, `key: is empty; name the parameter of the query whose value tells clients apart`},
		{`{"policy":"ip_hash","fallback":{"policy":"random"}}`, `json: unknown field "fallback"`},
		{`{"policy":"cookie","fallback":{"policy":"header"}}`, `fallback: field: is empty`},
		{
			`{"policy":"header","field":"a","fallback":{"policy":"cookie","name":"b","fallback":{"policy":"first"}}}`,
			`header A 0s {"policy":"first"} cookie b 0s {"policy":"first"}`,
		},
		{`{"policy":"cookie","fallback":"random"}`, `fallback: json: cannot unmarshal string into`},
	} {
		s, err := Parse(json.RawMessage(test.config))
		var got string
		if err != nil {
			got = err.Error()
		} else {
			for ; s != nil; s = s.Next {
				got += fmt.Sprintf("%s %s %v %s ", s.Policy, s.Name, s.MaxAge, s.Fallback)
				if !Is(s.Policy) {
					t.Errorf("%s is not sticky", s.Policy)
				}
			}
		}
		if !strings.Contains(got, test.want) {
			t.Errorf("%s\n got %s\nwant %s", test.config, got, test.want)
		}
	}
	if Is("least_conn") {
		t.Error("least_conn is sticky")
	}
}

func TestHomeOfCookie(t *testing.T) {
	s := parse(t, `{"policy":"cookie","secret":"x"}`)
	c, all := ourPool(s)
	first, second := s.valueOf(dials[0]), s.valueOf(dials[1])
	own := endpoint("of-this-request:80")
	forged := parse(t, `{"policy":"cookie","secret":"y"}`).valueOf(dials[0])
	for _, test := range []struct {
		name   string
		cookie []string
		want   *upstream.Endpoint
	}{
		{"none", nil, nil},
		{"known", []string{"lb=" + first}, all[0]},
		{"quoted", []string{`lb="` + first + `"`}, all[0]},
		{"among others", []string{"a=b; lb=" + first + "; c=d"}, all[0]},
		{"in the second field", []string{"a=b", "lb=" + second}, all[1]},
		{"the first of two", []string{"lb=" + second + "; lb=" + first}, all[1]},
		{"the known of two", []string{"lb=" + forged + "; lb=" + first}, all[0]},
		{"after too many", []string{strings.Repeat("lb="+forged+"; ", mostCookies) + "lb=" + first}, nil},
		{"another name", []string{"LB=" + first}, nil},
		{"forged", []string{"lb=" + forged}, nil},
		{"upper case", []string{"lb=" + strings.ToUpper(first)}, nil},
		{"cut", []string{"lb=" + first[:63]}, nil},
		{"longer", []string{"lb=" + first + "0"}, nil},
		{"empty", []string{"lb="}, nil},
		{"no value", []string{"lb"}, nil},
		{"an address", []string{"lb=" + dials[0]}, nil},
		{"of this handshake", []string{"lb=" + s.valueOf(own.Server.Dial)}, own},
		{"of an upstream that is not here", []string{"lb=" + s.valueOf("gone:80")}, nil},
	} {
		r := request(nil)
		if test.cookie != nil {
			r.Header["Cookie"] = test.cookie
		}
		if got := c.Home(r, []*upstream.Endpoint{own}); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

func TestCookiesOfWhatComesAndGoes(t *testing.T) {
	s := parse(t, `{"policy":"cookie"}`)
	c := NewCookies(s)
	a, twin := endpoint("a:80"), endpoint("a:80")
	r := request(nil)
	r.Header.Set("Cookie", "lb="+s.valueOf("a:80"))
	for i, step := range []struct {
		do    func(*upstream.Endpoint)
		e     *upstream.Endpoint
		want  *upstream.Endpoint
		count int
	}{
		{c.Join, a, a, 1},
		{c.Join, twin, a, 2},
		{c.Join, a, a, 2},
		{c.Leave, a, twin, 1},
		{c.Leave, a, twin, 1},
		{c.Leave, twin, nil, 0},
	} {
		step.do(step.e)
		if got := c.Home(r, nil); got != step.want || c.Count() != step.count {
			t.Errorf("step %d: got %p with %d, want %p with %d", i, got, c.Count(), step.want, step.count)
		}
	}
	if len(c.homes) != 0 {
		t.Errorf("%d cookies are left", len(c.homes))
	}
}

func TestLookUpAllocatesNothing(t *testing.T) {
	s := parse(t, `{"policy":"cookie"}`)
	c, all := ourPool(s)
	r := request(nil)
	r.Header.Set("Cookie", "a=b; lb="+strings.Repeat("0", 64)+"; lb="+s.valueOf(dials[3]))
	if n := testing.AllocsPerRun(100, func() {
		if c.Home(r, nil) != all[3] {
			t.Error("got another one")
		}
	}); n != 0 {
		t.Errorf("got %v allocations", n)
	}
	var v Rendezvous
	if n := testing.AllocsPerRun(100, func() { winner(&v, "key", nil) }); n != 0 {
		t.Errorf("a rendezvous has %v allocations", n)
	}
}

func TestRendezvousGoesByWeight(t *testing.T) {
	weights := []int{1, 1, 2, 4, 8, 1, 3, 20}
	const keys = 40000
	got := make(map[string]int)
	var v Rendezvous
	moved := 0
	more := append([]int(nil), weights...)
	more[2] = 6
	for i := range keys {
		key := fmt.Sprint("client ", i)
		home := winner(&v, key, weights)
		got[home]++
		if later := winner(&v, key, more); later != home {
			moved++
			if later != dials[2] {
				t.Fatalf("%s has moved from %s to %s, whose weight is the same", key, home, later)
			}
		}
	}
	for i, dial := range dials {
		want := float64(weights[i]) / 40 * keys
		if math.Abs(float64(got[dial])-want) > 5*math.Sqrt(want) {
			t.Errorf("%s of weight %d: got %d keys, want about %.0f", dial, weights[i], got[dial], want)
		}
	}
	if want := keys * (6.0/44 - 2.0/40); math.Abs(float64(moved)-want) > 5*math.Sqrt(want) {
		t.Errorf("got %d that have moved, want about %.0f", moved, want)
	}
}

// What the order of the questions is must not matter, nor that of logarithms.
func TestRendezvousInAnyOrder(t *testing.T) {
	weights := []int{5, 1, 2, 65536, 8, 1, 3, 20}
	for i := range 2000 {
		key := fmt.Sprint(i)
		var v, w Rendezvous
		v.Start(key)
		w.Start(key)
		var forth, back string
		for j := range dials {
			if v.Wins(dials[j], weights[j]) {
				forth = dials[j]
			}
			if k := len(dials) - 1 - j; w.Wins(dials[k], weights[k]) {
				back = dials[k]
			}
		}
		if forth != back {
			t.Fatalf("%s: got %s and %s", key, forth, back)
		}
	}
}

func TestLongKeys(t *testing.T) {
	var v Rendezvous
	a, b := strings.Repeat("a", 1<<20), strings.Repeat("a", 1<<20-1)+"b"
	v.Start(a)
	first := v.hashOf("x:1")
	v.Start(b)
	if first == v.hashOf("x:1") {
		t.Error("the end of a long key does not count")
	}
	dial := strings.Repeat("d", longestDial+1)
	if !v.Wins(dial, 1) {
		t.Error("a long address cannot win")
	}
}

func TestKeyOfNewcomer(t *testing.T) {
	for _, config := range []string{
		`{"policy":"header","field":"X-Room"}`, `{"policy":"query","key":"other"}`, `{"policy":"client_ip_hash"}`,
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/?other=", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if got := parse(t, config).Key(r); got != "" {
			t.Errorf("%s: got %q", config, got)
		}
	}
}

func BenchmarkHome(b *testing.B) {
	s, err := Parse(json.RawMessage(`{"policy":"cookie","secret":"x"}`))
	if err != nil {
		b.Fatal(err)
	}
	c := NewCookies(s)
	for i := range 1000 {
		c.Join(endpoint(fmt.Sprintf("10.0.%d.%d:8080", i/250, i%250)))
	}
	r := request(nil)
	r.Header.Set("Cookie", "lb="+s.valueOf("10.0.3.7:8080"))
	b.ReportAllocs()
	for b.Loop() {
		if c.Home(r, nil) == nil {
			b.Fatal("unknown")
		}
	}
}

func BenchmarkRendezvous(b *testing.B) {
	all := make([]string, 1000)
	for i := range all {
		all[i] = fmt.Sprintf("10.0.%d.%d:8080", i/250, i%250)
	}
	for _, weighted := range []bool{false, true} {
		b.Run(fmt.Sprint("weighted=", weighted), func(b *testing.B) {
			var v Rendezvous
			b.ReportAllocs()
			for b.Loop() {
				v.Start("198.51.100.17")
				for i, dial := range all {
					weight := 1
					if weighted {
						weight += i % 4
					}
					v.Wins(dial, weight)
				}
			}
		})
	}
}
