package settings

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"github.com/caddyserver/caddy/v2"
)

// Decode reads a configuration as Caddy does, but explains its errors.
func Decode(config []byte, into any) error { return explain(caddy.StrictUnmarshalJSON(config, into)) }

// explain says of a value that is not of its field's kind where it is and what belongs
// there, without Go's types.
func explain(err error) error {
	wrong, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return err
	}
	text := "must be " + kindOf(wrong.Type) + ", and is " + withArticle(wrong.Value)
	if wrong.Field == "" {
		return errors.New(text)
	}
	return fmt.Errorf("%s: %s", wrong.Field, text)
}

// kindOf is what a value of a type is in JSON.
func kindOf(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number"
	}
	return "an object"
}

// withArticle makes a part of a sentence of how encoding/json calls what it has met.
func withArticle(kind string) string {
	switch kind {
	case "array", "object":
		return "an " + kind
	}
	return "a " + kind
}
