package sticky

import (
	"math"
	"net"
	"net/http"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Key returns what tells the client apart that has sent r, for a policy that hashes; empty
// for a newcomer. It is what reverse_proxy hashes.
func (s *Settings) Key(r *http.Request) string {
	switch s.Policy {
	case IPHash:
		return withoutPort(r.RemoteAddr)
	case ClientIPHash:
		address, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
		return withoutPort(address)
	case URIHash:
		return r.RequestURI
	case Query:
		return strings.Join(r.URL.Query()[s.Name], ",")
	case Header:
		if s.Name == "Host" && r.Host != "" { // net/http takes it out of the header
			return r.Host
		}
		return r.Header.Get(s.Name)
	}
	return ""
}

func withoutPort(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

const (
	// longestKey is how much of a key is hashed for each upstream: who sends more gets the
	// hash of it hashed, as a client could have a thousand upstreams hash a header of a MiB.
	longestKey = 2048
	// longestDial is for addresses that fit into the buffer of a Rendezvous.
	longestDial = 512
)

// Rendezvous compares upstreams for one key: each has a hash of its address and the key, and
// the highest wins, so that only those clients move whose upstream goes or that a new one
// gets. For equal weights the winner is reverse_proxy's; else it is the highest of
// ln(hash)/weight, which gives each the share of its weight (Schindelhauer and Schomaker,
// "Weighted Distributed Hash Tables", 2005).
type Rendezvous struct {
	// buf has the key at longestDial; the address of each upstream comes right before it.
	buf [longestDial + longestKey]byte
	end int

	any    bool
	hash   uint64
	weight int
	score  float64 // of the best one, if it has been needed
	scored bool
}

// Start begins anew with a key.
func (v *Rendezvous) Start(key string) {
	v.any, v.scored = false, false
	if len(key) > longestKey {
		sum := xxhash.Sum64String(key)
		for i := range 8 {
			v.buf[longestDial+i] = byte(sum >> (8 * i))
		}
		v.end = longestDial + 8
		return
	}
	v.end = longestDial + copy(v.buf[longestDial:], key)
}

// Wins reports whether an upstream, spelled as in the configuration, beats all that were
// asked about since Start.
func (v *Rendezvous) Wins(dial string, weight int) bool {
	h := v.hashOf(dial)
	switch {
	case !v.any:
	case weight == v.weight:
		if h <= v.hash {
			return false
		}
	case weight < v.weight && h <= v.hash: // without a logarithm
		return false
	default:
		if !v.scored {
			v.score, v.scored = scoreOf(v.hash, v.weight), true
		}
		score := scoreOf(h, weight)
		if score <= v.score {
			return false
		}
		v.any, v.hash, v.weight, v.score = true, h, weight, score
		return true
	}
	v.any, v.hash, v.weight, v.scored = true, h, weight, false
	return true
}

func (v *Rendezvous) hashOf(dial string) uint64 {
	if len(dial) > longestDial {
		return xxhash.Sum64String(dial + string(v.buf[longestDial:v.end]))
	}
	from := longestDial - len(dial)
	copy(v.buf[from:], dial)
	return xxhash.Sum64(v.buf[from:v.end])
}

// scoreOf is negative, and larger for a larger hash or weight.
func scoreOf(hash uint64, weight int) float64 {
	return math.Log((float64(hash)+1)/(1<<64)) / float64(weight)
}
