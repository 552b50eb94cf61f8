# The official image with our requirements and our code. Built by docker-compose.yaml.
FROM apache/airflow:3.3.2-python3.11

# The image's user builds the package in this folder; WORKDIR alone would make it root's.
USER root
RUN install --directory --owner=airflow --group=root /opt/penstock
USER airflow
WORKDIR /opt/penstock

COPY requirements.txt ./
RUN pip install --no-cache-dir --requirement requirements.txt

COPY pyproject.toml ./
COPY penstock_provider ./penstock_provider
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

COPY airflow_settings.yaml ./
COPY dags ./dags
COPY plugins ./plugins
COPY include ./include
COPY sandbox ./sandbox
COPY stack ./stack

ENV AIRFLOW__CORE__DAGS_FOLDER=/opt/penstock/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/penstock/plugins \
    PYTHONPATH=/opt/penstock/plugins:/opt/penstock
