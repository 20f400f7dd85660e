package sticky

import "github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/directive"

// Parse reads the arguments of sticky_session.
func (o *Opening) Parse(r *directive.Reader) error {
	if r.CountRemainingArgs() == 0 {
		return r.Err("sticky_session needs a path, such as: path */negotiate, or a parameter of the query, such as: query !sid")
	}
	for r.NextArg() {
		name := r.Val()
		var to *string
		switch name {
		case "path":
			to = &o.Path
		case "query":
			to = &o.Query
		default:
			return r.Errf("sticky_session has no setting %s; it has path and query", name)
		}
		if *to != "" {
			return r.Errf("%s is given twice", name)
		}
		if !r.NextArg() || r.Val() == "" {
			return r.Errf("%s of sticky_session needs a value", name)
		}
		*to = r.Val()
	}
	return nil
}
