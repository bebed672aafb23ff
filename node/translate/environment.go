package translate

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/node/manifest"
)

type variable struct{ name, value string }

// Environment is a container's, in the order of the pod file; a later variable of a name replaces the earlier one.
func Environment(pod *corev1.Pod, c *corev1.Container, where manifest.Addresses) ([]variable, error) {
	var env []variable
	for _, e := range c.Env {
		value := expand(e.Value, env)
		if e.ValueFrom != nil && e.ValueFrom.FieldRef != nil {
			found, err := manifest.FieldRef(pod, where, e.ValueFrom.FieldRef.FieldPath)
			if err != nil {
				return nil, fmt.Errorf("container %s: environment variable %s: %w", c.Name, e.Name, err)
			}
			value = found
		}
		env = set(env, e.Name, value)
	}
	return env, nil
}

func set(env []variable, name, value string) []variable {
	for i := range env {
		if env[i].name == name {
			env[i].value = value
			return env
		}
	}
	return append(env, variable{name, value})
}

func expandAll(texts []string, env []variable) []string {
	var found []string
	for _, text := range texts {
		found = append(found, expand(text, env))
	}
	return found
}

// expand replaces $(NAME) by the variable's value; a name that is not known stays as it is, and $$ is a plain $
// (third_party/forked/golang/expansion of Kubernetes).
func expand(text string, env []variable) string {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '$' || i+1 == len(text) {
			out.WriteByte(text[i])
			continue
		}
		switch text[i+1] {
		case '$':
			out.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(text[i+2:], ')')
			if end < 0 {
				out.WriteString("$(")
				i++
				continue
			}
			name := text[i+2 : i+2+end]
			out.WriteString(lookUp(name, env))
			i += 2 + end
		default:
			out.WriteByte('$')
		}
	}
	return out.String()
}

func lookUp(name string, env []variable) string {
	for _, v := range env {
		if v.name == name {
			return v.value
		}
	}
	return "$(" + name + ")"
}
