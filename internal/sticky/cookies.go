package sticky

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// mostCookies is how many cookies of the name are looked at in a request. Browsers send
// several if they were set for several paths or domains.
const mostCookies = 8

// digest is what is hashed of a cookie once more before it is looked up, so that the time of
// the look-up tells nothing about cookies of others.
type digest [sha256.Size]byte

// Cookies are those of a pool's upstreams. Its lock is a leaf.
type Cookies struct {
	settings *Settings

	mu     sync.RWMutex
	values map[*upstream.Endpoint]string
	// homes has several endpoints for a cookie where they are spelled alike. The first one
	// that has joined gets the clients.
	homes map[digest][]*upstream.Endpoint
}

// NewCookies returns those of a pool without upstreams.
func NewCookies(s *Settings) *Cookies {
	return &Cookies{
		settings: s,
		values:   make(map[*upstream.Endpoint]string),
		homes:    make(map[digest][]*upstream.Endpoint),
	}
}

// Join makes the cookie of an endpoint.
func (c *Cookies) Join(e *upstream.Endpoint) {
	value := c.settings.valueOf(e.Server.Dial)
	key := digestOf(value)
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, has := c.values[e]; has {
		return
	}
	c.values[e] = value
	c.homes[key] = append(c.homes[key], e)
}

// Leave forgets it. Clients that have the cookie are newcomers from now on, unless another
// endpoint is spelled alike.
func (c *Cookies) Leave(e *upstream.Endpoint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	value, has := c.values[e]
	if !has {
		return
	}
	delete(c.values, e)
	key := digestOf(value)
	left := slices.DeleteFunc(slices.Clone(c.homes[key]), func(other *upstream.Endpoint) bool { return other == e })
	if len(left) == 0 {
		delete(c.homes, key)
		return
	}
	c.homes[key] = left
}

// Home returns the endpoint whose cookie r has, or nil for a newcomer. others are endpoints
// of this handshake only, which have not joined. If several cookies have the name, the first
// one that is known counts.
func (c *Cookies) Home(r *http.Request, others []*upstream.Endpoint) *upstream.Endpoint {
	var values [mostCookies]string
	for _, value := range cookiesOf(r.Header, c.settings.Name, values[:0]) {
		if e := c.homeOf(value); e != nil {
			return e
		}
		for _, e := range others {
			if hmac.Equal([]byte(c.settings.valueOf(e.Server.Dial)), []byte(value)) {
				return e
			}
		}
	}
	return nil
}

func (c *Cookies) homeOf(value string) *upstream.Endpoint {
	if !isValue(value) {
		return nil
	}
	key := digestOf(value)
	c.mu.RLock()
	defer c.mu.RUnlock()
	if homes := c.homes[key]; len(homes) > 0 {
		return homes[0]
	}
	return nil
}

// Count is how many endpoints have cookies.
func (c *Cookies) Count() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.values)
}

// Set adds the cookie of an endpoint to the header of the answer to r.
func (c *Cookies) Set(header http.Header, r *http.Request, e *upstream.Endpoint) {
	c.mu.RLock()
	value, has := c.values[e]
	c.mu.RUnlock()
	if !has {
		value = c.settings.valueOf(e.Server.Dial)
	}
	cookie := &http.Cookie{
		Name:     c.settings.Name,
		Value:    value,
		Path:     "/",
		HttpOnly: true,
		SameSite: http.SameSiteLaxMode,
	}
	if isSecure(r) {
		cookie.Secure, cookie.SameSite = true, http.SameSiteNoneMode
	}
	if c.settings.MaxAge > 0 {
		cookie.MaxAge = int(c.settings.MaxAge.Seconds())
	}
	header.Add("Set-Cookie", cookie.String())
}

// isSecure reports whether the client has come by TLS, as far as is known.
func isSecure(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	protos := r.Header["X-Forwarded-Proto"]
	return trusted && len(protos) > 0 && protos[len(protos)-1] == "https"
}

// valueOf is the cookie of the upstream that is spelled so.
func (s *Settings) valueOf(dial string) string {
	h := hmac.New(sha256.New, []byte(s.Secret))
	h.Write([]byte(dial))
	return hex.EncodeToString(h.Sum(nil))
}

// isValue reports whether a cookie has the form of ours: nothing else is hashed.
func isValue(value string) bool {
	if len(value) != 2*sha256.Size {
		return false
	}
	for i := range len(value) {
		if c := value[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func digestOf(value string) digest {
	var text [2 * sha256.Size]byte
	copy(text[:], value)
	return sha256.Sum256(text[:])
}

// cookiesOf appends to values those of the cookies with a name, up to the capacity. It reads
// them as net/http does, but makes nothing of the others.
func cookiesOf(header http.Header, name string, values []string) []string {
	for _, line := range header["Cookie"] {
		for line != "" {
			var part string
			part, line, _ = strings.Cut(line, ";")
			key, value, _ := strings.Cut(textproto.TrimString(part), "=")
			if textproto.TrimString(key) != name {
				continue
			}
			if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
				value = value[1 : len(value)-1]
			}
			if values = append(values, value); len(values) == cap(values) {
				return values
			}
		}
	}
	return values
}
