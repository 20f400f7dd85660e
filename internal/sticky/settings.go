// Package sticky knows where a client belongs that has been here before: by a cookie, or by
// what a hash is made of. Options, cookies and hashes are those of reverse_proxy's selection
// policies of the same names, so that a client is known before and after an upgrade, and by
// both handlers. It knows requests and endpoints, but it does not choose.
//
// The locks of Cookies and Sessions are leaves.
package sticky

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"
)

// These are the policies.
const (
	Cookie       = "cookie"
	Header       = "header"
	Query        = "query"
	IPHash       = "ip_hash"
	ClientIPHash = "client_ip_hash"
	URIHash      = "uri_hash"
)

// defaultFallback is for those that do not say it. reverse_proxy's is random, which knows
// nothing of tunnels.
const defaultFallback = `{"policy":"least_conn"}`

// Settings are the configuration of a sticky policy.
type Settings struct {
	// Policy is one of the constants, and Name what it goes by: the name of a cookie, of a
	// header field or of a parameter.
	Policy, Name string
	// Secret is hashed into the cookie. MaxAge is the time that it is kept; 0 means as long
	// as the browser runs.
	Secret string
	MaxAge time.Duration
	// Next is another sticky policy, for clients that this one does not know; nil: they are
	// newcomers. Fallback is the configuration of the policy that these go by, which is not
	// sticky.
	Next     *Settings
	Fallback json.RawMessage
}

// Is reports whether a policy is sticky.
func Is(policy string) bool {
	switch policy {
	case Cookie, Header, Query, IPHash, ClientIPHash, URIHash:
		return true
	}
	return false
}

// Parse reads the configuration of a policy for which Is is true. Errors begin with the path
// below it if they concern one field.
func Parse(raw json.RawMessage) (*Settings, error) {
	var named struct {
		Policy string `json:"policy"`
	}
	if err := json.Unmarshal(raw, &named); err != nil {
		return nil, err
	}
	s := &Settings{Policy: named.Policy}
	var err error
	switch s.Policy {
	case Cookie:
		err = s.parseCookie(raw)
	case Header:
		err = s.parseHeader(raw)
	case Query:
		err = s.parseQuery(raw)
	default:
		err = caddy.StrictUnmarshalJSON(raw, &named)
	}
	if err != nil {
		return nil, err
	}
	return s, s.fallBack()
}

// fallBack reads what a policy falls back to.
func (s *Settings) fallBack() error {
	if len(s.Fallback) == 0 || string(s.Fallback) == "null" {
		s.Fallback = json.RawMessage(defaultFallback)
		return nil
	}
	var named struct {
		Policy string `json:"policy"`
	}
	err := json.Unmarshal(s.Fallback, &named)
	if err == nil && Is(named.Policy) {
		if s.Next, err = Parse(s.Fallback); err == nil {
			s.Fallback = s.Next.Fallback
		}
	}
	if err != nil {
		return fmt.Errorf("fallback: %w", err)
	}
	return nil
}

func (s *Settings) parseCookie(raw json.RawMessage) error {
	var c struct {
		Policy   string          `json:"policy"`
		Name     string          `json:"name"`
		Secret   string          `json:"secret"`
		MaxAge   caddy.Duration  `json:"max_age"`
		Fallback json.RawMessage `json:"fallback"`
	}
	if err := caddy.StrictUnmarshalJSON(raw, &c); err != nil {
		return err
	}
	if c.Name == "" {
		c.Name = "lb"
	}
	if !httpguts.ValidHeaderFieldName(c.Name) { // which is a token, too (RFC 6265 section 4.1.1)
		return fmt.Errorf("name: %q cannot be the name of a cookie; use letters, digits, - and _", c.Name)
	}
	if c.MaxAge < 0 {
		return errors.New("max_age: must not be negative; leave it out for a cookie without an age")
	}
	s.Name, s.Secret, s.MaxAge, s.Fallback = c.Name, c.Secret, time.Duration(c.MaxAge), c.Fallback
	return nil
}

func (s *Settings) parseHeader(raw json.RawMessage) error {
	var h struct {
		Policy   string          `json:"policy"`
		Field    string          `json:"field"`
		Fallback json.RawMessage `json:"fallback"`
	}
	if err := caddy.StrictUnmarshalJSON(raw, &h); err != nil {
		return err
	}
	if h.Field == "" {
		return errors.New("field: is empty; name the header field whose value tells clients apart")
	}
	s.Name, s.Fallback = http.CanonicalHeaderKey(h.Field), h.Fallback
	return nil
}

func (s *Settings) parseQuery(raw json.RawMessage) error {
	var q struct {
		Policy   string          `json:"policy"`
		Key      string          `json:"key"`
		Fallback json.RawMessage `json:"fallback"`
	}
	if err := caddy.StrictUnmarshalJSON(raw, &q); err != nil {
		return err
	}
	if q.Key == "" {
		return errors.New("key: is empty; name the parameter of the query whose value tells clients apart")
	}
	s.Name, s.Fallback = q.Key, q.Fallback
	return nil
}
