package sticky

import (
	"errors"
	"fmt"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Opening is what a request looks like that opens a session, and so needs nothing of what an
// upstream knows. If it says several things, all of them have to be so.
type Opening struct {
	// Path of the request, as the matcher `path` has it: `*/negotiate` for SignalR. Default:
	// any.
	Path string `json:"path,omitempty"`
	// Parameter that the query has to have, or, behind a `!`, must not have: `!sid` for
	// Socket.IO. Default: any.
	Query string `json:"query,omitempty"`
}

// Check returns what is wrong with it.
func (o *Opening) Check() error {
	switch {
	case o.Path == "" && o.Query == "":
		return errors.New("says nothing; give a path, such as */negotiate, or a parameter, such as !sid")
	case o.Query == "!":
		return errors.New("query: names no parameter; write !sid if a session begins without a sid")
	}
	return checkPattern(o.Path)
}

// checkPattern refuses a pattern that the matcher `path` would take and never match. What a
// placeholder stands for is not known yet, and wildcards that are only at the ends are not
// part of a pattern there.
func checkPattern(pattern string) error {
	begins, ends := strings.HasPrefix(pattern, "*"), strings.HasSuffix(pattern, "*")
	wildcards := strings.Count(pattern, "*")
	if strings.Contains(pattern, "{") || wildcards == 1 && (begins || ends) || wildcards == 2 && begins && ends {
		return nil
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return fmt.Errorf(`path: %s is not a pattern, and matches nothing; end each [ by a ], or write \[ for the character`, pattern)
	}
	return nil
}

// Opens reports whether a request is so.
func (o *Opening) Opens(r *http.Request) bool {
	if o.Path != "" {
		// An error would be one of a pattern that cannot match.
		if is, err := (caddyhttp.MatchPath{strings.ToLower(o.Path)}).MatchWithError(r); err != nil || !is {
			return false
		}
	}
	if o.Query == "" {
		return true
	}
	name, without := strings.CutPrefix(o.Query, "!")
	return r.URL.Query().Has(name) != without
}

// creditRest is how long a credit is good for: who comes back later has not come because of
// what was closed.
const creditRest = 2 * time.Minute

// Credits say how many of those that open a session at an upstream come there because of its
// cookie only, though tunnels were just closed so that they go elsewhere. The lock is a leaf.
type Credits struct {
	mu sync.Mutex
	of map[Home]credit
}

type credit struct {
	left  int
	until time.Time
}

// Give sets the credits of an upstream to how many tunnels are closed there.
func (c *Credits) Give(now time.Time, home Home, closed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for other, has := range c.of {
		if !now.Before(has.until) {
			delete(c.of, other)
		}
	}
	if c.of == nil {
		c.of = make(map[Home]credit)
	}
	c.of[home] = credit{closed, now.Add(creditRest)}
}

// Take uses one credit of an upstream, for who opens a session. It reports whether there was
// one, and so whether that one is a newcomer.
func (c *Credits) Take(now time.Time, home Home) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	has, ok := c.of[home]
	if !ok {
		return false
	}
	if has.left--; has.left <= 0 || !now.Before(has.until) {
		delete(c.of, home)
	} else {
		c.of[home] = has
	}
	return now.Before(has.until)
}
