package admin

import "net/http"

// Selection says which tunnels something is done to: those that a filter means, or,
// said in so many words, every one. Parse comes before Matches.
type Selection struct {
	Filter

	// All has to be set if no filter is.
	All bool `json:"all"`
}

// Parse is [Filter.Parse], and refuses a selection that is forgotten or in doubt.
func (s *Selection) Parse() error {
	if err := s.Filter.Parse(); err != nil {
		return err
	}
	if s.isEmpty() != s.All {
		return refuse(http.StatusBadRequest,
			"say which tunnels: upstream, client, handler or labels, or all for every one")
	}
	return nil
}

// isEmpty reports whether the filter means all tunnels.
func (f *Filter) isEmpty() bool {
	return f.Upstream == "" && f.Client == "" && f.Handler == "" && len(f.Labels) == 0
}
