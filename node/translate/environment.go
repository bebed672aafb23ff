package translate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/node/manifest"
)

// Variable is one of an environment.
type Variable struct{ name, value string }

// Lookup answers what an environment refers to. Errors of the kind errdefs.ErrNotFound are no errors for references that are optional.
type Lookup struct {
	ConfigMap func(name string) (*corev1.ConfigMap, error)
	Secret    func(name string) (*corev1.Secret, error)
	// File is the value of a variable in a file of a volume; found is false when the file does not set it.
	File        func(volume, path, key string) (value string, found bool, err error)
	Services    []*corev1.Service
	Allocatable func() (corev1.ResourceList, error) // for limits that a container does not have
}

// Environment is a container's: the variables of its sources, those it names itself, and those of services, which replace none. A later variable
// of a name replaces the earlier one.
func Environment(pod *corev1.Pod, c *corev1.Container, where manifest.Addresses, lookup Lookup) ([]Variable, error) {
	services := serviceVariables(pod, lookup.Services)
	var env []Variable
	for i := range c.EnvFrom {
		var err error
		if env, err = addSource(env, &c.EnvFrom[i], lookup); err != nil {
			return nil, err
		}
	}
	for i := range c.Env {
		e := &c.Env[i]
		value, found := expand(e.Value, func(name string) (string, bool) { return lookUp(name, env, services) }), true
		if e.Value == "" && e.ValueFrom != nil {
			var err error
			if value, found, err = valueFrom(pod, c, e.ValueFrom, where, lookup); err != nil {
				return nil, err
			}
		}
		if found {
			env = set(env, e.Name, value)
		}
	}
	for _, v := range services {
		if _, taken := lookUp(v.name, env); !taken {
			env = append(env, v)
		}
	}
	return env, nil
}

func addSource(env []Variable, from *corev1.EnvFromSource, lookup Lookup) ([]Variable, error) {
	data := map[string]string{}
	switch {
	case from.ConfigMapRef != nil:
		found, err := lookup.ConfigMap(from.ConfigMapRef.Name)
		if missing(err, from.ConfigMapRef.Optional) {
			return env, nil
		} else if err != nil {
			return nil, err
		}
		data = found.Data
	case from.SecretRef != nil:
		found, err := lookup.Secret(from.SecretRef.Name)
		if missing(err, from.SecretRef.Optional) {
			return env, nil
		} else if err != nil {
			return nil, err
		}
		for key, value := range found.Data {
			data[key] = string(value)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(data)) {
		env = set(env, from.Prefix+key, data[key])
	}
	return env, nil
}

func missing(err error, optional *bool) bool {
	return errdefs.IsNotFound(err) && optional != nil && *optional
}

// valueFrom answers found false for what is optional and not there.
func valueFrom(pod *corev1.Pod, c *corev1.Container, from *corev1.EnvVarSource, where manifest.Addresses, lookup Lookup) (value string, found bool, err error) {
	switch {
	case from.FieldRef != nil:
		value, err = manifest.FieldRef(pod, where, from.FieldRef.FieldPath)
		return value, true, err
	case from.ResourceFieldRef != nil:
		value, err = manifest.ResourceFieldRef(pod, from.ResourceFieldRef, c.Name, lookup.Allocatable)
		return value, true, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		object, err := lookup.ConfigMap(ref.Name)
		if err == nil {
			if value, ok := object.Data[ref.Key]; ok {
				return value, true, nil
			}
			err = fmt.Errorf("couldn't find key %v in ConfigMap %v/%v: %w", ref.Key, pod.Namespace, ref.Name, errdefs.ErrNotFound)
		}
		return "", false, unlessOptional(err, ref.Optional)
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		object, err := lookup.Secret(ref.Name)
		if err == nil {
			if value, ok := object.Data[ref.Key]; ok {
				return string(value), true, nil
			}
			err = fmt.Errorf("couldn't find key %v in Secret %v/%v: %w", ref.Key, pod.Namespace, ref.Name, errdefs.ErrNotFound)
		}
		return "", false, unlessOptional(err, ref.Optional)
	case from.FileKeyRef != nil:
		ref := from.FileKeyRef
		value, found, err := lookup.File(ref.VolumeName, ref.Path, ref.Key)
		if err == nil && !found {
			err = fmt.Errorf("environment variable key %q not found in file %q: %w", ref.Key, ref.Path, errdefs.ErrNotFound)
		}
		if err != nil {
			return "", false, unlessOptional(err, ref.Optional)
		}
		return value, true, nil
	}
	return "", true, nil
}

func unlessOptional(err error, optional *bool) error {
	if missing(err, optional) {
		return nil
	}
	return err
}

func set(env []Variable, name, value string) []Variable {
	for i := range env {
		if env[i].name == name {
			env[i].value = value
			return env
		}
	}
	return append(env, Variable{name, value})
}

func expandAll(texts []string, env []Variable) []string {
	var found []string
	for _, text := range texts {
		found = append(found, expand(text, func(name string) (string, bool) { return lookUp(name, env) }))
	}
	return found
}

// Expand replaces $(NAME) by values of a container's own variables, as subPathExpr does it: a name that is not known is an error.
func Expand(text string, env []Variable) (string, error) {
	var unknown []string
	expanded := expand(text, func(name string) (string, bool) {
		value, ok := lookUp(name, env)
		if !ok {
			unknown = append(unknown, name)
		}
		return value, ok
	})
	if len(unknown) > 0 {
		return "", fmt.Errorf("missing value for %s: %w", strings.Join(unknown, ", "), errdefs.ErrInvalidArgument)
	}
	return expanded, nil
}

// expand replaces $(NAME) by the variable's value; a name that is not known stays as it is, and $$ is a plain $
// (third_party/forked/golang/expansion of Kubernetes).
func expand(text string, value func(name string) (string, bool)) string {
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
			if found, ok := value(name); ok {
				out.WriteString(found)
			} else {
				out.WriteString("$(" + name + ")")
			}
			i += 2 + end
		default:
			out.WriteByte('$')
		}
	}
	return out.String()
}

// lookUp looks in one list after the other.
func lookUp(name string, lists ...[]Variable) (string, bool) {
	for _, list := range lists {
		for _, v := range list {
			if v.name == name {
				return v.value, true
			}
		}
	}
	return "", false
}
