package admin

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/expiry"
)

// RenewRequest says which tunnels are to expire later, and when.
type RenewRequest struct {
	Selection

	// Expires is the time: seconds since 1970, a time as in RFC 3339, or a duration from
	// now on.
	Expires Time `json:"expires"`
}

// Time is a time as expiry.Parse reads it. In JSON it is a string or a number.
type Time string

// UnmarshalJSON implements json.Unmarshaler.
func (t *Time) UnmarshalJSON(text []byte) error {
	var s string
	if json.Unmarshal(text, &s) != nil {
		s = string(text) // a number, or nothing that is a time
	}
	*t = Time(s)
	return nil
}

// RenewAnswer tells how many tunnels expire later than before. Those that do not expire,
// or later anyway, stay as they are.
type RenewAnswer struct {
	Renewed int `json:"renewed"`
}

func (a *server) renewTunnels(w http.ResponseWriter, r *http.Request) error {
	var req RenewRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	if err := req.Parse(); err != nil {
		return err
	}
	now := time.Now()
	at, err := expiry.Parse(string(req.Expires), now)
	if err != nil {
		return refuse(http.StatusBadRequest, "expires: %w", err)
	}
	var answer RenewAnswer
	for _, t := range a.Tunnels(&req.Filter) {
		if t.Renew(at.Sub(now)) {
			answer.Renewed++
		}
	}
	return writeJSON(w, http.StatusOK, answer)
}
